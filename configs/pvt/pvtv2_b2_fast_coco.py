_base_ = "./pvtv2_b2_none_coco.py"
model = dict(backbone=dict(tome_cfg="fast"))
