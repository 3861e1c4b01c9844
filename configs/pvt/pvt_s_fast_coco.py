_base_ = "./pvt_s_none_coco.py"
model = dict(backbone=dict(tome_cfg="fast"))
