_base_ = "./segformerpp_n2d_cityscapes.py"
model = dict(test_cfg=dict(_delete_=True, mode="whole"))
