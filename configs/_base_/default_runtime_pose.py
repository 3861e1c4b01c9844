_base_ = ["./common_runtime.py", "./default_hooks.py"]
default_scope = "mmpose"
data_mode = "topdown"  # Pose2DInferencer reads it here
visualizer = dict(type="PoseLocalVisualizer", vis_backends=_base_.vis_backends, name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True, num_digits=6)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=10, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="PoseVisualizationHook", enable=False),
    badcase=dict(
        type="BadCaseAnalysisHook",
        enable=False,
        out_dir="badcase",
        metric_type="loss",
        badcase_thr=5,
    ),
)
