_base_ = "./segformerpp_hq_cityscapes.py"
model = dict(test_cfg=dict(_delete_=True, mode="whole"))
