"""Checks of data before a run: what does not fit a model fails late, or trains without a warning.

A head of 19 classes learns from 11 without a word; masks of 0 and 255 give an accuracy of 100 %,
since 255 stands for what is not labelled; other misfits end as "Target 6 is out of bounds", on a
GPU as a device-side assert.
"""

import os
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset
from PIL import Image
from torch import nn

from mmseg_tome.errors import DataError, first_line

FILES = ("img_path", "seg_map_path")
"""Fields of a sample that name a file."""


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


LOOKED_AT = 6
"""Labels of a data set that are read."""

LOOKED_AT_IN_DOUBT = 60
"""As many where the first ones hold nothing but 0 and what is ignored."""

NOT_LABELLED = 255


def check_segmentation(dataset: BaseDataset, model: nn.Module, training: bool) -> None:
    """Check a data set's classes and some of its labels against a segmentor's heads.

    Args:
        dataset: With or without labels; one of pose is passed over.
        model: A segmentor or what wraps one; others are passed over.
        training: Whether losses see the labels, or metrics alone.

    Raises:
        DataError: The model cannot be trained or tested on it; the message says why.
    """
    heads = list(_heads(model))
    if not heads:
        return
    name = type(dataset).__name__
    for where, head in heads if training else heads[-1:]:
        check_class_count(head, dataset.metainfo.get("classes"), where, name)
    load = _label_loader(dataset)
    if load is None:
        return
    head = heads[-1][1]
    ignored = getattr(head if training else dataset, "ignore_index", NOT_LABELLED)
    one_channel = getattr(head, "out_channels", None) == 1  # tells 0 from 1, also as one class
    _check_labels(dataset, load, 2 if one_channel else head.num_classes, ignored)


def check_class_count(
    head: nn.Module, classes: Sequence[str] | None, where: str, dataset: str
) -> None:
    """Raise DataError unless a head predicts as many classes as a data set has."""
    if not classes:
        return
    one_channel = getattr(head, "out_channels", None) == 1  # 0 is one class, 1 the other
    allowed = {len(classes)} | ({1, 2} if one_channel and len(classes) <= 2 else set())
    if head.num_classes not in allowed:
        raise DataError(
            f"{dataset} has {len(classes)} classes, the model predicts {head.num_classes}: set "
            f"model.{where}.num_classes={len(classes)}, or use the data set that the model is for"
        )


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The heads of a segmentor, by their names in its config; the one that predicts is the last."""
    while not hasattr(model, "decode_head") and isinstance(
        getattr(model, "module", None), nn.Module
    ):
        model = model.module  # test-time augmentation wraps it
    for name in ("auxiliary_head", "decode_head"):
        head = getattr(model, name, None)
        several = isinstance(head, nn.ModuleList)
        for i, each in enumerate(head if several else filter(None, [head])):
            if hasattr(each, "num_classes"):
                yield f"{name}.{i}" if several else name, each


def _label_loader(dataset: BaseDataset):
    """The step of a data set's pipeline that loads labels, or None."""
    for step in getattr(getattr(dataset, "pipeline", None), "transforms", ()):
        if getattr(step, "with_seg", False):
            return step
    return None


def _check_labels(dataset: BaseDataset, load, num_classes: int, ignored: int) -> None:
    number = len(dataset)
    chosen = [i * number // LOOKED_AT for i in range(LOOKED_AT)] if number > LOOKED_AT else None
    values: set[int] = set()
    read: set[int] = set()

    def look(indices: Sequence[int]) -> None:
        for i in indices:
            sample = dataset.get_data_info(i)
            path = sample.get("seg_map_path")
            if i not in read and path and "://" not in str(path):
                read.add(i)
                values.update(_values_of(sample, load, num_classes, ignored))

    look(chosen or range(number))
    if values and values <= {0, ignored} and ignored in values:
        look([i * number // LOOKED_AT_IN_DOUBT for i in range(LOOKED_AT_IN_DOUBT)])
        if values <= {0, ignored}:
            raise DataError(
                f"{type(dataset).__name__}: the {len(read)} labels looked at hold nothing but "
                f"{', '.join(map(str, sorted(values)))}, and {ignored} stands for what is not "
                f"labelled: the classes of a mask are 0 to {num_classes - 1} "
                f"({dataset.get_data_info(0)['seg_map_path']})"
            )


def _values_of(sample: dict, load, num_classes: int, ignored: int) -> set[int]:
    """The values of a label as the pipeline loads it.

    Raises:
        DataError: It cannot be read, is coloured, of another size than its image, or holds what is
            no class.
    """
    path = sample["seg_map_path"]
    _check_depth(path)
    try:
        label = load(dict(sample))["gt_seg_map"]
    except KeyError:
        return set()  # a loader of another kind
    except Exception as error:  # each decoder has its own
        raise DataError(f"label {path} cannot be read: {first_line(error)}") from None
    if label.ndim != 2:
        raise DataError(
            f"label {path} has {label.shape[-1]} channels: a label is a grey PNG, or one with a "
            "palette, that holds the class index of each pixel, not its colour"
        )
    _check_size(sample["img_path"], path, label.shape)
    values = set(np.unique(label).tolist())
    beyond = sorted(value for value in values - {ignored} if not 0 <= value < num_classes)
    if beyond:
        shown = ", ".join(map(str, beyond[:5])) + (", ..." if len(beyond) > 5 else "")
        raise DataError(
            f"label {path} holds {shown}, but the model's classes are 0 to {num_classes - 1} "
            f"({ignored}: not labelled). Does the data set need reduce_zero_label, or the model "
            "another num_classes?"
        )
    return values


def _check_depth(path: str) -> None:
    """Refuse values above 255, which mmseg's loading cuts to their lowest 8 bits."""
    try:
        with Image.open(path) as image:
            highest = image.getextrema()[1] if image.mode.startswith(("I", "F")) else 0
    except Exception:  # of no kind that Pillow reads, or damaged: loading says so
        return
    if highest > 255:
        raise DataError(f"label {path} holds {highest:g}: labels of more than 8 bits are cut off")


def _check_size(image: str, label: str, shape: tuple[int, int]) -> None:
    try:
        with Image.open(image) as opened:
            size = opened.size
    except Exception:  # a kind that Pillow does not know
        return
    height, width = shape
    if Path(image).exists() and size not in ((width, height), (height, width)):  # EXIF may turn it
        raise DataError(
            f"label {label} has {width}x{height} pixels, its image {image} {size[0]}x{size[1]}"
        )
