_base_ = "./segformerpp_b1_none_cityscapes.py"
model = dict(backbone=dict(tome_cfg="speed"))
