# The schedule of the paper's pose experiments. Their config files end the step schedule at epoch
# 70, before its first step, so that it never acts; here it acts, at epochs 170 and 200.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="mmseg_tome.GroupedOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", milestones=[170, 200], gamma=0.1, by_epoch=True, begin=0, end=210),
]
train_cfg = dict(by_epoch=True, max_epochs=210, val_interval=10)
val_cfg = dict()
test_cfg = dict()
# The learning rate is meant for this total batch; a tool's `--auto-scale-lr` turns this on.
auto_scale_lr = dict(enable=False, base_batch_size=16)
