"""A hook that looks through the data before a run, not in the middle of it from within a worker."""

import os
import traceback
from collections import defaultdict
from collections.abc import Iterator

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from mmseg_tome.engine.label_check import check_segmentation
from mmseg_tome.errors import DataError
from mmseg_tome.registry import HOOKS

FILES = ("img_path", "seg_map_path")
"""Fields of a sample that name a file."""


@HOOKS.register_module()
class DatasetGuardHook(Hook):
    """Refuse data sets that are empty, lack files, or hold other classes, labels or keypoints.

    Without it such data ends a run later, with the traceback of a data loader's worker. Looking
    through COCO's 150,000 persons takes seconds; of labels a few are read, see `label_check`.
    """

    priority = "VERY_HIGH"

    def before_run(self, runner: Runner) -> None:
        """Check the data of every loop of this run.

        Raises:
            DataError: A data set cannot be used with this model; the message says why.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        keypoints = getattr(getattr(model, "head", None), "out_channels", None)
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if isinstance(loop, BaseLoop):
                for dataset in _base_datasets(loop.dataloader.dataset):
                    check_dataset(dataset, keypoints)
                    check_segmentation(dataset, model, loop is runner._train_loop)


def check_dataset(dataset: BaseDataset, keypoints: int | None = None) -> None:
    """Check one data set.

    Args:
        dataset: A data set of an mm package.
        keypoints: How many keypoints the model predicts, if it is one for pose.

    Raises:
        DataError: It has no samples, other keypoints, or lacks files.
    """
    name, source = type(dataset).__name__, _source(dataset)
    if len(dataset) == 0:
        raise _nothing_in(dataset)
    declared = dataset.metainfo.get("num_keypoints")
    if None not in (keypoints, declared) and keypoints != declared:
        raise DataError(
            f"{name} has {declared} keypoints, the model's head predicts {keypoints}: set "
            "model.head.out_channels, or use the data set that the model is for"
        )
    names_by_folder = defaultdict(set)
    for i in range(len(dataset)):
        sample = BaseDataset.get_data_info(dataset, i)  # subclasses copy their metainfo into it
        if declared and "keypoints" in sample and sample["keypoints"].shape[1] != declared:
            raise DataError(
                f"{name}: annotation {sample.get('id')} of {source} has "
                f"{sample['keypoints'].shape[1]} keypoints, not {declared}"
            )
        for path in (sample.get(field) for field in FILES):
            if path and "://" not in path:
                folder, file = os.path.split(path)
                names_by_folder[folder].add(file)
    _check_files(name, source, names_by_folder)


def explain_empty(error: ValueError) -> DataError | None:
    """What to tell a user instead of `error`, if mmengine raised it over a data set without data.

    mmengine builds its data sets late, and fails in numpy where it packs an empty list.
    """
    cause: BaseException | None = error
    while cause is not None:  # mmengine wraps errors of what it builds
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            dataset = frame.f_locals.get("self")
            packs = frame.f_code.co_name == "_serialize_data"
            if packs and isinstance(dataset, BaseDataset) and not dataset.data_list:
                return _nothing_in(dataset)
        cause = cause.__context__
    return None


def _nothing_in(dataset: BaseDataset) -> DataError:
    pose = "num_keypoints" in dataset.metainfo
    needs = " that has a box inside the image and a labelled keypoint, and is no crowd"
    what = f"no person{needs}" if pose else "no image"
    return DataError(f"{type(dataset).__name__}: nothing to use in {_source(dataset)}: {what}")


def _source(dataset: BaseDataset) -> str:
    return dataset.ann_file or dataset.data_root or str(dataset.data_prefix)


def _check_files(name: str, source: str, names_by_folder: dict[str, set[str]]) -> None:
    """One listing of a folder instead of a look at each of its files."""
    missing = []
    for folder, names in names_by_folder.items():
        present = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        missing += [os.path.join(folder, file) for file in sorted(names - present)]
    if missing:
        total = sum(map(len, names_by_folder.values()))
        raise DataError(
            f"{name}: {len(missing)} of the {total} files that {source} names are missing, the "
            f"first is {missing[0]}"
        )


def _base_datasets(dataset) -> Iterator[BaseDataset]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(dataset, BaseDataset) and not hasattr(dataset, "datasets"):
        yield dataset
        return
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    for part in inner:
        if part is not None:
            yield from _base_datasets(part)
