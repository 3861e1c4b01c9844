# Top-down pose: the segmentation model's backbone under a heatmap head. Data sets set the head's
# `out_channels` and `decoder`.
_base_ = "./segformer_mit_b0.py"
model = dict(
    _delete_=True,
    type="mmseg_tome.TopdownPoseEstimator",
    data_preprocessor=dict(
        type="mmseg_tome.PoseDataPreprocessor",
        mean=_base_.model.data_preprocessor.mean,
        std=_base_.model.data_preprocessor.std,
        bgr_to_rgb=True,
    ),
    backbone=_base_.model.backbone,
    head=dict(
        type="mmseg_tome.SegformerHeatmapHead",
        in_channels=_base_.model.decode_head.in_channels,
        channels=256,
        norm_cfg=dict(type="BN"),
        loss=dict(type="KeypointMSELoss", use_target_weight=True),
    ),
    test_cfg=dict(flip_test=True, flip_mode="heatmap", shift_heatmap=True),
)
