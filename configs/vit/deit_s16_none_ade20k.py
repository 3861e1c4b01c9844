_base_ = [
    "../_base_/models/deit_s16.py",
    "../_base_/datasets/ade20k_512x512.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime.py",
]
model = dict(data_preprocessor=dict(size=(512, 512)))
# The zoo trains this head at the rate of the backbone, and embeddings without weight decay.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            pos_embed=dict(decay_mult=0.0),
            cls_token=dict(decay_mult=0.0),
            head=dict(lr_mult=1.0),
        )
    )
)
# The zoo's unmerged checkpoint: every variant tests it, or starts from it, as it is.
load_from = (
    "https://mmassets.onedl.ai/mmsegmentation/v0.5/vit/"
    "upernet_deit-s16_mln_512x512_160k_ade20k/"
    "upernet_deit-s16_mln_512x512_160k_ade20k_20210621_161021-fb9a5dfb.pth"
)
