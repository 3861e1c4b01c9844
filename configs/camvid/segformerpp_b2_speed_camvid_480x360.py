_base_ = "./segformerpp_b2_none_camvid_480x360.py"
model = dict(backbone=dict(tome_cfg="speed"))
