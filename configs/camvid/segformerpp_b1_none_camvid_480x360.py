_base_ = [
    "../_base_/models/segformer_mit_b1.py",
    "../_base_/datasets/camvid_480x360.py",
    "../_base_/schedules/adamw_6k.py",
    "../_base_/default_runtime.py",
]
model = dict(
    data_preprocessor=dict(size=(360, 480)),
    # From random weights, so that training needs no download. With the ImageNet weights of
    # `_base_/models` (take out the next line), use the learning rates of `adamw_160k`.
    backbone=dict(init_cfg=None),
    decode_head=dict(num_classes=11),
)
