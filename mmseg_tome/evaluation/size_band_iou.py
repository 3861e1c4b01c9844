"""IoU by the size of objects: merging is felt first by what is small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from mmengine import fileio
from mmengine.evaluator import BaseMetric

from mmseg_tome.evaluation.maps import class_indices, count_values, percentages, read_maps
from mmseg_tome.registry import METRICS

COCO_BANDS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, None)}
"""Sizes in pixels, from the first up to below the second; None is no limit."""

CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9,
    23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Class index in training (train id) by Cityscapes' label id, as in cityscapesScripts."""

PER_CLASS = 1000
"""An instance's pixels hold label id * 1000 + number; below, there is a label id alone."""

TOLERANCE = 0.1
"""Part of the numbered pixels that may be of another class than the label says: redrawn or resized
maps differ along contours, maps of other classes everywhere."""


@METRICS.register_module()
class SizeBandIoUMetric(BaseMetric):
    """IoU and recall of small, medium and large objects, in percent.

    An object is an 8-connected region of a class in the label of one image, or an instance where
    the data set numbers them. Its size is its number of labelled pixels, at the label's resolution.
    Regions that void pixels or an occluder cut apart are objects of their own.

    For a class c and a band b, over the whole data set::

        IoU[c, b]    = TP[c, b] / (GT[c, b] + FP[c, b])
        recall[c, b] = TP[c, b] / GT[c, b]

    GT are the pixels of the objects of c in the band, and TP those of them that are predicted as c.
    A semantic prediction does not say which object a wrong pixel was meant for, so the FP pixels of
    an image (predicted as c, labelled as another class) are distributed among the objects of c in
    that image in proportion to their size, as in the per-instance mIoU^K of Wang et al.,
    "Revisiting Evaluation Metrics for Semantic Segmentation", NeurIPS 2023, arXiv 2310.19252. It
    chooses no distance and no matching, and nothing gets lost. Their metric looks at images that
    have the class; the FP pixels of the other images are distributed by the same rule over the
    data set. mIoU^K averages the IoUs of objects; here pixels are summed before they are divided,
    as in mmseg's IoU. Hence

    - TP, GT and FP of the bands sum up to those of the class: a single band that holds everything
      gives mmseg's IoU, and the IoU of a class lies between those of its bands;
    - within one image the bands differ by recall alone: the FP pixels say nothing about size.

    Cityscapes' iIoU weights TP by size and leaves FP unweighted instead, which makes one number of
    all sizes.

    Void pixels never count. The mean of a band is over the classes with objects in it; a band
    without objects has no entry, nor has a class that is labelled nowhere (mmseg gives it IoU 0).

    Entries: `mIoU.<band>`, `recall.<band>`; with `per_class` also `IoU.<band>.<class>` and
    `recall.<band>.<class>`. Two of these metrics in one evaluator need a `prefix` each.

    Args:
        bands: Sizes in pixels of each band, from the first up to below the second, which may be
            None; by default COCO's areas. Bands must not overlap. Objects in none of them are left
            out.
        classes: Names of the classes to look at; by default all of the data set.
        per_class: Also give every class's scores.
        instance_suffix: For Cityscapes: the part of a label's file name, and what stands there in
            the name of the file with instance ids, `("labelTrainIds", "instanceIds")`. Pixels
            without an instance (poles, groups) are split into regions.
        ignore_index: Label of void pixels.
        **kwargs: As for mmengine's `BaseMetric`.

    Raises:
        ValueError: Bands that cannot be; with the first batch: classes that the data set lacks,
            images without label, or instance ids that do not fit it.
        FileNotFoundError: An image lacks its file with instance ids.
    """

    reads_labels_only = True

    def __init__(
        self,
        bands: Mapping[str, Sequence[float | None]] = COCO_BANDS,
        classes: Sequence[str] | None = None,
        per_class: bool = False,
        instance_suffix: tuple[str, str] | None = None,
        ignore_index: int = 255,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.bands = _check_bands(bands)
        self.classes = classes
        self.per_class = per_class
        self.instance_suffix = instance_suffix
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count one batch.

        Keeps per image GT, TP and FP of each class and band, `[num_classes, bands + 1, 3]`, the
        last for objects in no band, and the FP of classes that it does not have, `[num_classes]`.
        """
        names = self.dataset_meta["classes"]
        wanted = class_indices(names, self.classes)
        for sample in data_samples:
            pred, label, void = read_maps(sample, len(names), self.ignore_index)
            instances = None
            if self.instance_suffix is not None:
                path = instance_path(sample["seg_map_path"], self.instance_suffix)
                instances = read_instances(path, label, void)
            objects = LabelObjects(label, void, self.bands, len(names), wanted, instances)
            self.results.append(objects.count(pred)[1:])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The scores of the data set.

        Args:
            results: Per image what `process` keeps.
        """
        if not results:
            return {}
        names = self.dataset_meta["classes"]
        counts, stray = (sum(column) for column in zip(*results, strict=True))
        labelled, hits, false = counts.transpose(2, 0, 1)  # [num_classes, bands + 1]
        with np.errstate(invalid="ignore"):  # 0 / 0 is a class or a band without objects
            false = false + stray[:, None] * labelled / labelled.sum(axis=1, keepdims=True)
            iou, recall = hits / (labelled + false), hits / labelled
        metrics = {}
        for kind, mean, scores in (("IoU", "mIoU", iou), ("recall", "recall", recall)):
            for b, band in enumerate(self.bands):
                each = f"{kind}.{band}" if self.per_class else None
                metrics.update(percentages(scores[:, b], names, f"{mean}.{band}", each))
        return metrics


class LabelObjects:
    """The objects of one label, with which any number of predictions can be compared.

    Args:
        label: As `read_maps` gives it, `[H, W]`.
        void: Its code of void pixels.
        bands: Sizes in pixels of each band, from the first up to below the second.
        num_classes: Classes of the data set.
        wanted: Indices of the classes to look at; None for all.
        instances: Number of the instance that a pixel belongs to, from 1, and 0 for none, int32
            `[H, W]`; pixels of no instance are split into 8-connected regions.

    Attributes:
        pixels: Labelled pixels of each class, `[num_classes]`.
        areas: Pixels of each object, `[objects]`.
        classes: Class of each object, `[objects]`.
    """

    def __init__(
        self,
        label: np.ndarray,
        void: int,
        bands: Mapping[str, tuple[float, float]],
        num_classes: int,
        wanted: Sequence[int] | None = None,
        instances: np.ndarray | None = None,
    ) -> None:
        self.label, self.valid = label, label != void
        self.num_classes, self.num_bands = num_classes, len(bands) + 1  # the last: in no band
        self.pixels = count_values(label, self.valid, num_classes)
        self.looked_at = np.isin(
            np.arange(num_classes), range(num_classes) if wanted is None else wanted
        )
        numbers = np.zeros(label.shape, np.int32)  # of the objects of all classes, from 1
        areas, classes = [np.zeros(0, int)], [np.zeros(0, int)]
        first = 1
        for c in np.flatnonzero((self.pixels > 0) & self.looked_at):
            mask = label == c
            x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
            box = np.s_[y : y + h, x : x + w]
            mask = np.ascontiguousarray(mask[box])
            found = number_objects(mask, None if instances is None else instances[box])
            areas.append(np.bincount(found[mask])[1:])
            classes.append(np.full(len(areas[-1]), c))
            numbers[box][mask] = found[mask] + (first - 1)
            first += len(areas[-1])
        self.numbers = numbers.astype(np.uint16) if first <= 2**16 else numbers
        self.areas, self.classes = np.concatenate(areas), np.concatenate(classes)
        band = np.full(len(self.areas), len(bands))
        for b, (low, high) in enumerate(bands.values()):
            band[(self.areas >= low) & (self.areas < high)] = b
        self.cells = self.classes * self.num_bands + band

    def hits(self, pred: np.ndarray) -> np.ndarray:
        """Pixels of each object that are predicted as its class, `[objects]`."""
        return count_values(self.numbers, pred == self.label, len(self.areas) + 1)[1:]

    def count(self, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compare with a prediction, which is as the label is.

        Returns:
            Intersection and predicted pixels of each class, `[2, num_classes]`; GT, TP and FP of
            each class and band, `[num_classes, bands + 1, 3]`; FP of classes that are labelled
            nowhere, `[num_classes]`.
        """
        hits = self.hits(pred)
        intersect = np.bincount(self.classes, hits, self.num_classes)
        predicted = count_values(pred, self.valid, self.num_classes)
        false = np.where(self.looked_at, predicted - intersect, 0.0)
        shares = (false / np.maximum(self.pixels, 1))[self.classes] * self.areas
        counts = np.stack(
            [
                np.bincount(self.cells, values, self.num_classes * self.num_bands)
                for values in (self.areas, hits, shares)
            ],
            axis=-1,
        ).reshape(self.num_classes, self.num_bands, 3)
        return np.stack([intersect, predicted]), counts, np.where(self.pixels == 0, false, 0.0)


def number_objects(mask: np.ndarray, instances: np.ndarray | None = None) -> np.ndarray:
    """Number the objects of one class from 1, without gaps; 0 where there is none.

    Args:
        mask: Labelled pixels of the class, bool `[H, W]`.
        instances: As for `LabelObjects`.

    Returns:
        Integers `[H, W]`.
    """
    loose = mask if instances is None else mask & (instances == 0)
    regions, numbers = cv2.connectedComponents(loose.view(np.uint8), connectivity=8)
    if instances is None:
        return numbers  # region 0 is the background
    numbers = np.where(mask & (instances > 0), instances + (regions - 1), numbers)
    numbers[mask] = np.unique(numbers[mask], return_inverse=True)[1].ravel() + 1
    return numbers


def instance_path(seg_map_path: str, suffix: tuple[str, str]) -> str:
    """Name of the file with the instance ids that belong to a label's file.

    Args:
        seg_map_path: The label's file.
        suffix: Part of its name, and what stands there in the other name.

    Raises:
        ValueError: The label's file does not have that part.
    """
    head, found, tail = seg_map_path.rpartition(suffix[0])
    if not found:
        raise ValueError(f"instance_suffix: there is no {suffix[0]!r} in {seg_map_path}")
    return head + suffix[1] + tail


def read_instances(path: str, label: np.ndarray, void: int) -> np.ndarray:
    """Read Cityscapes' instance ids (`*_gtFine_instanceIds.png`).

    Args:
        path: The file, 16 bits a pixel: label id * 1000 + number, or a label id without instance.
        label: The image's label in train ids, `[H, W]`.
        void: What void pixels hold in `label`.

    Returns:
        Number of each pixel's instance within its class, from 1; 0 for none, and where the class is
        not the label's; int32 `[H, W]`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, has another size, or says other classes than the label, beyond
            `TOLERANCE`.
    """
    try:
        data = fileio.get(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist; without instance ids leave instance_suffix out, then "
            "connected regions count as objects"
        ) from None
    ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if ids is None or ids.shape != label.shape:
        found = "no image" if ids is None else f"{list(ids.shape)}, the label {list(label.shape)}"
        raise ValueError(f"{path} is {found}")
    train_ids = np.full(np.iinfo(np.uint16).max // PER_CLASS + 1, void, label.dtype)
    train_ids[list(CITYSCAPES_TRAIN_IDS)] = list(CITYSCAPES_TRAIN_IDS.values())
    has_number = (ids >= PER_CLASS) & (label != void)
    same = has_number & (train_ids[ids // PER_CLASS] == label)
    differing, numbered = np.count_nonzero(has_number & ~same), np.count_nonzero(has_number)
    if differing > TOLERANCE * numbered:
        raise ValueError(
            f"{path} says another class than the label at {differing} of {numbered} pixels: "
            "instance_suffix is for labels in Cityscapes' train ids"
        )
    return np.where(same, ids % PER_CLASS + 1, 0).astype(np.int32)


def _check_bands(bands: Mapping[str, Sequence[float | None]]) -> dict[str, tuple[float, float]]:
    if not bands:
        raise ValueError("bands is empty: name at least one, e.g. {'small': (0, 1024)}")
    checked = {}
    for name, limits in bands.items():
        if len(limits) != 2:
            raise ValueError(f"band {name!r} must be two sizes in pixels, got {limits!r}")
        low, high = limits[0], np.inf if limits[1] is None else limits[1]
        if not 0 <= low < high:
            raise ValueError(f"band {name!r} holds no size: {limits!r}")
        for other, (from_, to) in checked.items():
            if low < to and from_ < high:
                raise ValueError(f"bands {other!r} and {name!r} overlap")
        checked[name] = (low, high)
    return checked
