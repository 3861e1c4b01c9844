_base_ = "./segformerpp_none_coco_detections.py"
model = dict(backbone=dict(tome_cfg="quality"))
