_base_ = "./deit_s16_none_ade20k.py"
model = dict(backbone=dict(tome_cfg="fast"))
