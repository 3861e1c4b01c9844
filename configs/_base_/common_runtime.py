# What segmentation and pose have in common.
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
# The scope `mmseg_tome` imports itself on first use, but MMPose, and an mmseg whose mmcv has no
# compiled ops, need `compat` before they are imported; `engine` makes loading checkpoints safe.
custom_imports = dict(
    imports=["mmseg_tome.compat", "mmseg_tome.engine"],
    allow_failed_imports=False,
)
custom_hooks = []  # those of a config of yours: [*_base_.custom_hooks, dict(type=...)]
vis_backends = [dict(type="LocalVisBackend")]
log_level = "INFO"
load_from = None
resume = False
