"""IoU of the strips along contours: what merging costs on edges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric

from mmseg_tome.evaluation.maps import class_indices, count_values, percentages, read_maps
from mmseg_tome.registry import METRICS


@METRICS.register_module()
class BoundaryIoUMetric(BaseMetric):
    """Boundary IoU of Cheng et al. (CVPR 2021, arXiv 2103.16562) for semantic masks, in percent.

    With the label G and the prediction P of a class, and G_d and P_d the pixels within a distance d
    of their contours::

        boundary IoU = |(G_d & G) & (P_d & P)| / |(G_d & G) | (P_d & P)|

    A pixel of a mask is in its strip if a pixel that is not of the mask, or the outside of the
    image, lies within d rows and d columns: the distance of the authors' reference code (d erosions
    by 3x3 pixels of the mask inside a border of zeros). d is `dilation_ratio` times the image's
    diagonal, rounded, at least 1: 46 pixels for 2048x1024.

    Intersections and unions are summed over the data set for each class, as in mmseg's IoU, then
    averaged over the classes that have a union. With d beyond the image it is mmseg's mIoU.

    Void pixels are in no strip, and make none: nobody knows whether an object goes on under them,
    so a contour is where another class is known to begin. (Were void another class, label and
    prediction would share strips along it, which counts as agreement.)

    Entries: `boundary_mIoU`; with `per_class` also `boundary_IoU.<class>`.

    Args:
        dilation_ratio: Width of the strips over the image's diagonal. The authors' tools have 0.02
            for COCO and LVIS, and 0.005 for Cityscapes.
        classes: Names of the classes to look at; by default all of the data set.
        per_class: Also give every class's score.
        ignore_index: Label of void pixels.
        **kwargs: As for mmengine's `BaseMetric`.

    Raises:
        ValueError: `dilation_ratio` is not positive; with the first batch: classes that the data
            set lacks, or images without label.
    """

    reads_labels_only = True

    def __init__(
        self,
        dilation_ratio: float = 0.02,
        classes: Sequence[str] | None = None,
        per_class: bool = False,
        ignore_index: int = 255,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if not dilation_ratio > 0:
            raise ValueError(f"dilation_ratio must be positive, got {dilation_ratio!r}")
        self.dilation_ratio = dilation_ratio
        self.classes = classes
        self.per_class = per_class
        self.ignore_index = ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count one batch: per image intersection and union of each class, `[2, num_classes]`."""
        names = self.dataset_meta["classes"]
        class_indices(names, self.classes)  # a wrong name is an error here, not after the test
        for sample in data_samples:
            pred, label, void = read_maps(sample, len(names), self.ignore_index)
            strips = LabelStrips(label, void, len(names), self.dilation_ratio)
            self.results.append(strips.count(pred))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The scores of the data set.

        Args:
            results: Per image what `process` keeps.
        """
        if not results:
            return {}
        names = self.dataset_meta["classes"]
        intersect, union = sum(results)
        wanted = np.isin(np.arange(len(names)), class_indices(names, self.classes))
        with np.errstate(invalid="ignore"):  # 0 / 0 is a class that does not occur
            scores = np.where(wanted, intersect / union, np.nan)
        each = "boundary_IoU" if self.per_class else None
        return percentages(scores, names, "boundary_mIoU", each)


class LabelStrips:
    """The strips of one label, with which any number of predictions can be compared.

    Args:
        label: As `read_maps` gives it, `[H, W]`.
        void: Its code of void pixels.
        num_classes: Classes of the data set.
        ratio: Width of the strips over the image's diagonal.
    """

    def __init__(self, label: np.ndarray, void: int, num_classes: int, ratio: float) -> None:
        self.label, self.void, self.num_classes = label, void, num_classes
        self.distance = max(1, round(ratio * math.hypot(*label.shape)))
        self.strips = boundary_strips(label, void, self.distance)
        self.pixels = count_values(label, self.strips, num_classes)

    def count(self, pred: np.ndarray) -> np.ndarray:
        """Intersection and union of each class, `[2, num_classes]`; `pred` is as the label is."""
        strips = boundary_strips(pred, self.void, self.distance)
        both = self.strips & strips & (self.label == pred)
        intersect = count_values(self.label, both, self.num_classes)
        predicted = count_values(pred, strips, self.num_classes)
        return np.stack([intersect, self.pixels + predicted - intersect])


def boundary_strips(classes: np.ndarray, void: int, distance: int) -> np.ndarray:
    """Pixels that lie near the contour of their own class's mask, for all classes at once.

    A window around a pixel holds another class exactly if its smallest and largest class differ:
    one erosion and one dilation serve every class.

    Args:
        classes: Class of each pixel, uint8 or uint16 `[H, W]`.
        void: Class of void pixels, the largest value of the type.
        distance: How far, in rows and columns, another class or the image's outside may be.

    Returns:
        Bool `[H, W]`.
    """
    square = np.ones((3, 3), np.uint8)
    is_void = classes == void
    smallest = cv2.erode(classes, square, iterations=distance)  # void is larger than all
    largest = cv2.dilate(classes * ~is_void, square, iterations=distance)  # 0 is no larger
    strips = smallest != largest
    strips[:distance] = strips[-distance:] = True
    strips[:, :distance] = strips[:, -distance:] = True
    return strips & ~is_void
