default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
# The scope `mmseg_tome` imports itself on first use, but an mmseg whose mmcv has no compiled ops
# needs `compat` before its own `mmseg.models` is imported, and the hook below must be registered.
custom_imports = dict(
    imports=["mmseg_tome.compat", "mmseg_tome.engine"],
    allow_failed_imports=False,
)
custom_hooks = [dict(type="mmseg_tome.CheckpointGuardHook")]
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
tta_model = dict(type="SegTTAModel")
