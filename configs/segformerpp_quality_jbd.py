_base_ = "./segformerpp_none_jbd.py"
model = dict(backbone=dict(tome_cfg="quality"))
