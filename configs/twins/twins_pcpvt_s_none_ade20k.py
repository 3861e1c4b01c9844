_base_ = [
    "../_base_/models/twins_pcpvt_s.py",
    "../_base_/datasets/ade20k_512x512.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime.py",
]
model = dict(data_preprocessor=dict(size=(512, 512)))
# The zoo trains this head at the rate of the backbone.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=1.0))))
# The zoo's unmerged checkpoint: every variant tests it, or starts from it, as it is.
load_from = (
    "https://mmassets.onedl.ai/mmsegmentation/v0.5/twins/"
    "twins_pcpvt-s_uperhead_8x4_512x512_160k_ade20k/"
    "twins_pcpvt-s_uperhead_8x4_512x512_160k_ade20k_20211201_233537-8e99c07a.pth"
)
