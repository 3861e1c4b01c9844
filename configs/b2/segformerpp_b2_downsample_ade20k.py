_base_ = "./segformerpp_b2_none_ade20k.py"
model = dict(backbone=dict(down_sample=True))
