_base_ = "./segformerpp_b0_none_cityscapes.py"
model = dict(backbone=dict(tome_cfg="quality"))
