# ADE20K, 150 classes, 640x640 crops; the paper's batch of 8 on one GPU. The long side is limited to
# 2048 as the zoo's 640x640 SegFormer-B5 was trained. ADE20KDataset itself maps label 0 to 255.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(2048, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(640, 640), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 640), keep_ratio=True),
    # After the resize: scores are computed at the size of the ground truth.
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
# Six scales and their mirror images, relative to the size the plain test uses.
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=(2048 * r // 4, 640 * r // 4), keep_ratio=True)
                for r in (2, 3, 4, 5, 6, 7)
            ],
            [
                dict(type="RandomFlip", prob=0.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
            ],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ADE20KDataset",
        data_root="data/ade/ADEChallengeData2016",
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ADE20KDataset",
        data_root="data/ade/ADEChallengeData2016",
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmseg_tome.IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
# The learning rates are meant for this total batch; a tool's `--auto-scale-lr` turns this on.
auto_scale_lr = dict(enable=False, base_batch_size=8)
