_base_ = "./common_runtime.py"
default_scope = "mmseg"
visualizer = dict(type="SegLocalVisualizer", vis_backends=_base_.vis_backends, name="visualizer")
log_processor = dict(by_epoch=False)
tta_model = dict(type="SegTTAModel")
