"""Every hook, and what else mmengine calls around a model: the only room that it calls into.

Importing this, by hand, in a config's `custom_imports` or by naming one of its classes in a config,
makes checkpoints of this process safe and whole: see `install`.
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
    """Let mmengine read checkpoints safely, write files whole and find the mm packages' configs."""
    loading.install()
    install_whole_files()
    compat.name_packages()


install()
