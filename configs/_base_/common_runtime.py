# What segmentation and pose have in common.
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
# The scope `mmseg_tome` imports itself on first use, but MMPose, and an mmseg whose mmcv has no
# compiled ops, need `compat` before they are imported, and the hooks below must be registered.
custom_imports = dict(
    imports=["mmseg_tome.compat", "mmseg_tome.engine"],
    allow_failed_imports=False,
)
custom_hooks = [
    dict(type="mmseg_tome.CheckpointGuardHook"),
    dict(type="mmseg_tome.DatasetGuardHook"),
    # CUDA graphs when testing, and half precision with dtype="bfloat16".
    dict(type="mmseg_tome.FastInferenceHook", enabled=False),
    # CUDA graphs when training on one GPU.
    dict(type="mmseg_tome.FastTrainingHook", enabled=False),
    # What merges, as pictures and numbers for the visualizers.
    dict(type="mmseg_tome.MergingVisualizationHook", enabled=False),
]
vis_backends = [dict(type="LocalVisBackend")]
log_level = "INFO"
load_from = None
resume = False
