_base_ = "./segformerpp_b0_none_ade20k.py"
model = dict(backbone=dict(tome_cfg="speed"))
