# Jump-Broadcast, 20 keypoints of jumping athletes, 640x480 (h, w).
dataset_type = "mmseg_tome.JumpBroadcastDataset"  # for MMPose's inferencers
codec = dict(type="MSRAHeatmap", input_size=(480, 640), heatmap_size=(120, 160), sigma=3)
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="GetBBoxCenterScale"),
    dict(type="RandomFlip", direction="horizontal"),
    dict(type="RandomHalfBody"),
    dict(type="RandomBBoxTransform"),
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
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmseg_tome.JumpBroadcastDataset",
        data_root="data/jump_broadcast",
        data_mode="topdown",
        ann_file="annotations/train_jump.json",
        data_prefix=dict(img="images/train/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(
        type="mmseg_tome.JumpBroadcastDataset",
        data_root="data/jump_broadcast",
        data_mode="topdown",
        ann_file="annotations/val_jump.json",
        data_prefix=dict(img="images/val/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
# PCK is normalised by the person's box.
val_evaluator = [
    dict(type="PCKAccuracy", thr=0.1, prefix="PCK@0.1"),
    dict(type="PCKAccuracy", thr=0.05, prefix="PCK@0.05"),
]
test_evaluator = val_evaluator
