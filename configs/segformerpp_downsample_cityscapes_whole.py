_base_ = "./segformerpp_downsample_cityscapes.py"
model = dict(test_cfg=dict(_delete_=True, mode="whole"))
