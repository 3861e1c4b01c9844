# PVTv2-B2 (Wang et al., 2022): patches overlap, convolutions stand in for position embeddings.
_base_ = "./pvt_pose_s.py"
model = dict(
    backbone=dict(
        type="mmseg_tome.PyramidVisionTransformerV2",
        embed_dims=64,
        init_cfg=dict(
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b2.pth",
        ),
    ),
)
