# The network of `make demo-pose`: the demo's MiT under a heatmap head, trained from random weights
# for about a minute on two CPU cores, on the persons that `mmseg-tome demo scenes --height 512`
# renders. The sibling configs test its checkpoint with merging.
_base_ = ["../_base_/default_runtime_pose.py"]

data_root = "data/demo_scenes"
batch_size = 8
iters = 400
codec = dict(type="MSRAHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2)

model = dict(
    type="mmseg_tome.TopdownPoseEstimator",
    data_preprocessor=dict(
        type="mmseg_tome.PoseDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type="mmseg_tome.MixVisionTransformer",
        embed_dims=24,
        num_layers=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 6],
        tome_cfg=None,
    ),
    head=dict(
        type="mmseg_tome.SegformerHeatmapHead",
        in_channels=[24, 48, 96, 144],
        out_channels=17,
        channels=64,
        decoder=codec,
    ),
    test_cfg=dict(flip_test=True, flip_mode="heatmap", shift_heatmap=True),
)

train_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomBBoxTransform", rotate_factor=20, scale_factor=(0.85, 1.15)),
    dict(type="TopdownAffine", input_size=codec["input_size"]),
    dict(type="GenerateTarget", encoder=codec),
    dict(type="PackPoseInputs"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="TopdownAffine", input_size=codec["input_size"]),
    dict(type="PackPoseInputs"),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,  # two cores have no room for workers
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        data_mode="topdown",
        ann_file="annotations/person_keypoints_train.json",
        data_prefix=dict(img="leftImg8bit/train/"),
        pipeline=train_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        data_mode="topdown",
        ann_file="annotations/person_keypoints_val.json",
        data_prefix=dict(img="leftImg8bit/val/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = [
    dict(type="CocoMetric"),
    dict(type="PCKAccuracy", thr=0.1, prefix="PCK@0.1"),
    dict(type="PCKAccuracy", thr=0.05, prefix="PCK@0.05"),
]
test_cfg = dict()

train_cfg = dict(by_epoch=False, max_iters=iters)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="mmseg_tome.GroupedOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=4e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=60, by_epoch=False),
    dict(type="PolyLR", power=1.2, eta_min=0, begin=60, end=iters, by_epoch=False),
]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=20, log_metric_by_epoch=False),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=iters, save_optimizer=False),
)
randomness = dict(seed=0)
