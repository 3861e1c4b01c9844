# The network of `make demo`: a MiT between "tiny" and B0, trained from random weights for about a
# minute on two CPU cores, on the scenes that `mmseg-tome demo scenes` renders. The sibling
# configs test its checkpoint with merging.
_base_ = ["../_base_/default_runtime.py", "../_base_/default_hooks.py"]

data_root = "data/demo_scenes"
crop_size = (256, 512)  # height, width: a whole scene at the demo's default height
batch_size = 4
iters = 400
# Inverse frequency of the 19 classes to the power 0.35: without it a minute is too short for poles.
class_weight = [
    *(0.6, 1.7, 0.8, 2.2, 2.2, 1.7, 2.5, 2.7, 1.0, 2.7),
    *(1.0, 1.2, 2.7, 1.4, 1.7, 1.5, 1.8, 2.4, 2.2),
]

model = dict(
    type="mmseg_tome.EncoderDecoder",
    data_preprocessor=dict(
        type="mmseg_tome.SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop_size,
    ),
    backbone=dict(
        type="mmseg_tome.MixVisionTransformer",
        embed_dims=24,
        num_layers=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 6],
        tome_cfg=None,
    ),
    decode_head=dict(
        type="mmseg_tome.SegformerHead",
        in_channels=[24, 48, 96, 144],
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.0,
        num_classes=19,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        # A mean, written as a sum: mmseg 1.2.2 raises IndexError where it averages a weighted loss
        # over labels with void.
        loss_decode=dict(
            type="CrossEntropyLoss",
            class_weight=class_weight,
            reduction="sum",
            loss_weight=1 / (batch_size * crop_size[0] // 2 * crop_size[1] // 2),
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    # The loss at full resolution would cost more than the network: halve the labels alone.
    dict(
        type="KeyMapper",
        mapping=dict(img="gt_seg_map"),
        remapping=dict(img="gt_seg_map"),
        transforms=[dict(type="mmcv.Resize", scale_factor=0.5, interpolation="nearest")],
    ),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,  # scenes decode in milliseconds; two cores have no room for workers
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CityscapesDataset",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=train_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CityscapesDataset",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type="mmseg_tome.GroupedIoUMetric")
test_cfg = dict(type="TestLoop")

train_cfg = dict(type="IterBasedTrainLoop", max_iters=iters)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="mmseg_tome.GroupedOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=8e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=60, by_epoch=False),
    dict(type="PolyLR", power=1.2, eta_min=0, begin=60, end=iters, by_epoch=False),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=20, log_metric_by_epoch=False),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=iters, save_optimizer=False),
)
randomness = dict(seed=0)
