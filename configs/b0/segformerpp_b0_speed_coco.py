_base_ = "./segformerpp_b0_none_coco.py"
model = dict(backbone=dict(tome_cfg="speed"))
