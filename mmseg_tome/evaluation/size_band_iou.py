"""IoU by the size of objects: merging is felt first by what is small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric

from mmseg_tome.evaluation.maps import class_indices, percentages, read_maps
from mmseg_tome.evaluation.objects import count_objects, instance_path, read_instances
from mmseg_tome.registry import METRICS

COCO_BANDS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, None)}
"""Sizes in pixels, from the first up to below the second; None is no limit."""


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
            counts = np.zeros((len(names), len(self.bands) + 1, 3))
            stray = np.zeros(len(names))
            for c in wanted:
                predicted, mask = pred == c, label == c
                hit = predicted & mask
                false = np.count_nonzero(predicted) - np.count_nonzero(hit)
                x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
                if not w:
                    stray[c] = false
                    continue
                box = np.s_[y : y + h, x : x + w]
                area, hits = count_objects(
                    np.ascontiguousarray(mask[box]),
                    hit[box],
                    None if instances is None else instances[box],
                )
                band = self._bands_of(area)
                for column, values in enumerate((area, hits, false * (area / area.sum()))):
                    counts[c, :, column] = np.bincount(band, values, len(self.bands) + 1)
            self.results.append((counts, stray))

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

    def _bands_of(self, area: np.ndarray) -> np.ndarray:
        """Index of each object's band; one beyond the last for objects in none."""
        band = np.full(len(area), len(self.bands))
        for b, (low, high) in enumerate(self.bands.values()):
            band[(area >= low) & (area < high)] = b
        return band


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
