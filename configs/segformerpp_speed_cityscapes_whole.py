_base_ = "./segformerpp_speed_cityscapes.py"
model = dict(test_cfg=dict(_delete_=True, mode="whole"))
