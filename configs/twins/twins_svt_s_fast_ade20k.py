_base_ = "./twins_svt_s_none_ade20k.py"
model = dict(backbone=dict(tome_cfg="fast"))
