_base_ = "./segformer_mit_b1.py"
model = dict(
    backbone=dict(
        num_layers=[3, 6, 40, 3],
        init_cfg=dict(
            checkpoint="https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segformer/"
            "mit_b5_20220624-658746d9.pth",
        ),
    ),
)
