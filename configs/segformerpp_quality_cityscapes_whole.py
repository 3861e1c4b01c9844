_base_ = "./segformerpp_quality_cityscapes.py"
model = dict(test_cfg=dict(_delete_=True, mode="whole"))
