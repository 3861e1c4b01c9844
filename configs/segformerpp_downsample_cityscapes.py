_base_ = "./segformerpp_none_cityscapes.py"
model = dict(backbone=dict(down_sample=True))
