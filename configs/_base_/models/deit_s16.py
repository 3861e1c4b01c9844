# DeiT-S/16 (Touvron et al., ICML 2021), a plain ViT, with a multi-level neck under UPerNet: the
# arguments of the zoo's checkpoint for ADE20K, which the configs start from. To train as the zoo
# did instead, from ImageNet weights, convert DeiT's by mmseg's tools/model_converters/vit2mmseg.py
# and give the backbone `init_cfg=dict(type="Pretrained", checkpoint=...)`.
_base_ = "./twins_pcpvt_s.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmseg_tome.VisionTransformer",
        img_size=(512, 512),
        patch_size=16,
        in_channels=3,
        embed_dims=384,
        num_layers=12,
        num_heads=6,
        mlp_ratio=4,
        out_indices=(2, 5, 8, 11),
        qkv_bias=True,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.1,
        with_cls_token=True,
        norm_cfg=dict(type="LN", eps=1e-6),
        act_cfg=dict(type="GELU"),
        norm_eval=False,
        interpolate_mode="bicubic",
    ),
    neck=dict(
        type="MultiLevelNeck",
        in_channels=[384, 384, 384, 384],
        out_channels=384,
        scales=[4, 2, 1, 0.5],
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384, in_index=3),
)
