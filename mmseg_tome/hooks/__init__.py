"""All that mmengine calls around a model: hooks, the optimizer's constructor, collation.

Importing this, by hand, in a config's `custom_imports` or by naming one of its classes in a config,
installs safe reading and atomic writing of checkpoints in this process: see `install`.
"""

from mmseg_tome import compat
from mmseg_tome.checkpoints import loading
from mmseg_tome.hooks.auto_merging import AutoMergingHook
from mmseg_tome.hooks.checkpoints import (
    CheckpointGuardHook,
    SaveFirstCheckpointHook,
    install_whole_files,
)
from mmseg_tome.hooks.data import DatasetGuardHook, pinnable_collate
from mmseg_tome.hooks.evaluation import SaveMetricsHook, UnmergedReferenceHook
from mmseg_tome.hooks.fast import FastInferenceHook, FastTrainingHook
from mmseg_tome.hooks.merging_visualization import MergingVisualizationHook
from mmseg_tome.hooks.optimizer import CPUAmpOptimWrapper, GroupedOptimWrapperConstructor

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
    "install",
    "pinnable_collate",
]


def install() -> None:
    """Make mmengine read checkpoints safely, write files atomically and find the mm configs."""
    loading.install()
    install_whole_files()
    compat.name_packages()


install()
