_base_ = "./segformerpp_b0_none_camvid_480x360.py"
model = dict(backbone=dict(tome_cfg="speed"))
