# For CamVid (367 images) from random weights: the zoo's recipe with 10x its backbone learning rate
# and no extra factor for the head, since nothing is pretrained that a high rate could destroy.
_base_ = "./adamw_160k.py"
optim_wrapper = dict(
    optimizer=dict(lr=6e-4),
    paramwise_cfg=dict(custom_keys={"head": dict(lr_mult=1.0)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1000, end=20000),
]
train_cfg = dict(max_iters=20000, val_interval=2000)
default_hooks = dict(
    checkpoint=dict(interval=2000, max_keep_ckpts=2, save_best="mIoU"),
)
