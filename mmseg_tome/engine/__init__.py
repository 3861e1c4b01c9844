"""What runs around a model. Importing this makes checkpoint loading safe in this process."""

from mmseg_tome.engine import checkpoint
from mmseg_tome.engine.checkpoint_guard import CheckpointGuardHook
from mmseg_tome.engine.cpu import CPUAmpOptimWrapper
from mmseg_tome.engine.dataset_guard import DatasetGuardHook
from mmseg_tome.engine.fast_inference import FastInferenceHook
from mmseg_tome.engine.fast_training import FastTrainingHook
from mmseg_tome.engine.merging_visualization import MergingVisualizationHook
from mmseg_tome.engine.save_metrics import SaveMetricsHook
from mmseg_tome.engine.unmerged_reference import UnmergedReferenceHook

__all__ = [
    "CPUAmpOptimWrapper",
    "CheckpointGuardHook",
    "DatasetGuardHook",
    "FastInferenceHook",
    "FastTrainingHook",
    "MergingVisualizationHook",
    "SaveMetricsHook",
    "UnmergedReferenceHook",
]

checkpoint.install()
