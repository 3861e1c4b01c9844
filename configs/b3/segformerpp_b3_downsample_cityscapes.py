_base_ = "./segformerpp_b3_none_cityscapes.py"
model = dict(backbone=dict(down_sample=True))
