_base_ = "./segformerpp_none_coco.py"
model = dict(backbone=dict(tome_cfg="quality"))
