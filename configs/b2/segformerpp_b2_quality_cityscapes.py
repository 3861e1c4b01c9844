_base_ = "./segformerpp_b2_none_cityscapes.py"
model = dict(backbone=dict(tome_cfg="quality"))
