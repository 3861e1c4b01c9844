_base_ = "./segformerpp_b0_none_camvid.py"
model = dict(backbone=dict(tome_cfg="speed"))
