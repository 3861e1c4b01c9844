# Top-down pose with PVT-S (Wang et al., ICCV 2021), the arguments of the zoo's checkpoint. Data
# sets set the head's `out_channels` and `decoder`.
model = dict(
    type="mmseg_tome.TopdownPoseEstimator",
    data_preprocessor=dict(
        type="mmseg_tome.PoseDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type="mmseg_tome.PyramidVisionTransformer",
        num_layers=[3, 4, 6, 3],
        # ImageNet weights: read when training starts, never when testing.
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_small.pth",
        ),
    ),
    neck=dict(type="FeatureMapProcessor", select_index=3),
    head=dict(
        type="HeatmapHead",
        in_channels=512,
        loss=dict(type="KeypointMSELoss", use_target_weight=True),
    ),
    test_cfg=dict(flip_test=True, flip_mode="heatmap", shift_heatmap=True),
)
