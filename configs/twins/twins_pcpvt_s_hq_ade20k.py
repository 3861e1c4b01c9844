_base_ = "./twins_pcpvt_s_none_ade20k.py"
model = dict(backbone=dict(tome_cfg="hq"))
