"""IoU of groups of classes beside the mean over all: what merging costs on thin objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmseg_tome.evaluation.iou import IoUMetric
from mmseg_tome.registry import METRICS

THIN_CLASSES = (
    "pole",
    "traffic light",
    "traffic sign",
    "person",
    "rider",
    "motorcycle",
    "bicycle",
)


@METRICS.register_module()
class GroupedIoUMetric(IoUMetric):
    """mmseg's IoUMetric, plus `IoU.<class>` and `mIoU.<group>`, all in percent.

    A class that is in neither the labels nor the predictions has no IoU: it has no entry of its own
    and does not count in the mean of its group, nor does it in mmseg's mIoU. With `nan_to_num` it
    counts as that number, as in mmseg.

    Args:
        groups: Classes of each group by their names in the data set, e.g. `{"thin": ["pole"]}`. By
            default the group `thin` of those `THIN_CLASSES` that the data set has.
        **kwargs: As for `IoUMetric`.

    Raises:
        ValueError: A group is empty or names a class that the data set does not have (raised with
            the first batch).
    """

    reads_labels_only = True

    def __init__(self, *args, groups: Mapping[str, Sequence[str]] | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.groups = groups

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count one batch; a wrong group is an error here, not after the whole test."""
        self._groups_of(self.dataset_meta["classes"])
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """mmseg's metrics, then those of classes and groups.

        Args:
            results: Per image a tuple of four histograms [num_classes]: intersection, union,
                predicted and labelled pixels, as `IoUMetric.process` collects them.
        """
        groups = self._groups_of(self.dataset_meta["classes"])
        metrics = super().compute_metrics(results)
        if not results or self.format_only:
            return metrics
        areas = [sum(column) for column in zip(*results, strict=True)]
        iou = self.total_area_to_metrics(*areas, ["mIoU"], self.nan_to_num)["IoU"] * 100
        per_class = dict(zip(self.dataset_meta["classes"], iou.tolist(), strict=True))
        for name, value in per_class.items():
            if not math.isnan(value):
                metrics[f"IoU.{name}"] = round(value, 2)
        for group, names in groups.items():
            values = [per_class[name] for name in names if not math.isnan(per_class[name])]
            if values:
                metrics[f"mIoU.{group}"] = round(float(np.mean(values)), 2)
        return metrics

    def _groups_of(self, classes: Sequence[str]) -> dict[str, list[str]]:
        if self.groups is None:
            thin = [name for name in THIN_CLASSES if name in classes]
            return {"thin": thin} if thin else {}
        for group, names in self.groups.items():
            unknown = [name for name in names if name not in classes]
            if unknown or not names:
                problem = f"names {unknown}" if unknown else "is empty"
                raise ValueError(
                    f"group {group!r} {problem}; the classes of this data set are: "
                    + ", ".join(classes)
                )
        return {group: list(names) for group, names in self.groups.items()}
