_base_ = "./segformerpp_b2_none_camvid.py"
model = dict(backbone=dict(tome_cfg="quality"))
