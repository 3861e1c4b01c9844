_base_ = "./segformerpp_none_ade20k.py"
model = dict(backbone=dict(tome_cfg="quality"))
