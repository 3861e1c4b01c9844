# Twins-SVT-S: attention within windows and global attention take turns.
_base_ = "./twins_pcpvt_s.py"
model = dict(
    backbone=dict(
        type="mmseg_tome.SVT",
        embed_dims=[64, 128, 256, 512],
        num_heads=[2, 4, 8, 16],
        mlp_ratios=[4, 4, 4, 4],
        depths=[2, 2, 10, 4],
        windiow_sizes=[7, 7, 7, 7],  # mmseg spells it so
        norm_after_stage=True,
        init_cfg=dict(
            checkpoint="https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/twins/"
            "alt_gvt_small_20220308-7e1c3695.pth",
        ),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
