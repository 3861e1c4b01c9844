# `adamw_20k` for images of half the size: 130 epochs of CamVid in batches of 8, minutes on a GPU.
_base_ = "./adamw_20k.py"
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=500, end=6000),
]
train_cfg = dict(max_iters=6000, val_interval=3000)
default_hooks = dict(checkpoint=dict(interval=1000))
