"""What runs around a model. Importing this makes checkpoints of this process safe and whole."""

from mmseg_tome.checkpoints import loading
from mmseg_tome.engine import whole_files
from mmseg_tome.engine.auto_merging import AutoMergingHook
from mmseg_tome.engine.checkpoint_guard import CheckpointGuardHook
from mmseg_tome.engine.collate import pinnable_collate
from mmseg_tome.engine.cpu import CPUAmpOptimWrapper
from mmseg_tome.engine.dataset_guard import DatasetGuardHook
from mmseg_tome.engine.fast_inference import FastInferenceHook
from mmseg_tome.engine.fast_training import FastTrainingHook
from mmseg_tome.engine.merging_visualization import MergingVisualizationHook
from mmseg_tome.engine.optimizer import GroupedOptimWrapperConstructor
from mmseg_tome.engine.save_metrics import SaveMetricsHook
from mmseg_tome.engine.unmerged_reference import UnmergedReferenceHook
from mmseg_tome.engine.whole_files import SaveFirstCheckpointHook

__all__ = [
    "AutoMergingHook",
    "CPUAmpOptimWrapper",
    "CheckpointGuardHook",
    "DatasetGuardHook",
    "FastInferenceHook",
    "FastTrainingHook",
    "GroupedOptimWrapperConstructor",
    "MergingVisualizationHook",
    "SaveFirstCheckpointHook",
    "SaveMetricsHook",
    "UnmergedReferenceHook",
    "pinnable_collate",
]

loading.install()
whole_files.install()
