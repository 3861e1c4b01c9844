_base_ = "./segformerpp_b1_none_ade20k.py"
model = dict(backbone=dict(tome_cfg="speed"))
