_base_ = "./segformerpp_none_demo.py"
model = dict(backbone=dict(tome_cfg="n2d"))
