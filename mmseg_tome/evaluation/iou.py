"""mmseg's IoUMetric without a wait for the GPU at every image, and IoU of groups of classes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmseg.evaluation import IoUMetric as StockIoUMetric
from torch import Tensor

from mmseg_tome.evaluation.maps import class_indices
from mmseg_tome.registry import METRICS

AHEAD = 2
"""Batches that the host may be ahead of the GPU: more would only take memory."""

THIN_CLASSES = (
    *("pole", "traffic light", "traffic sign"),
    *("person", "rider", "motorcycle", "bicycle"),
)


@METRICS.register_module()
class IoUMetric(StockIoUMetric):
    """The stock metric: same arguments and numbers, counted on the prediction's own device.

    The counts stay there until all batches are processed.

    Attributes:
        reads_labels_only: What a metric says that reads no `seg_logits`.
    """

    reads_labels_only = True

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._counted: deque[torch.cuda.Event] = deque()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count one batch; on a GPU, wait for the last but one at most."""
        super().process(data_batch, data_samples)
        last = self.results[-1][0] if self.results else None
        if isinstance(last, Tensor) and last.is_cuda:
            self._counted.append(torch.cuda.current_stream(last.device).record_event())
            if len(self._counted) > AHEAD:
                self._counted.popleft().synchronize()

    def evaluate(self, size: int) -> dict:
        """The scores of all processes' results, which travel by way of the CPU."""
        self._counted.clear()
        self.results[:] = _on_cpu(self.results)
        return super().evaluate(size)

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels of each class, as in mmseg, without waiting for the device.

        Args:
            pred_label: Predicted classes, `[H, W]`.
            label: Labelled classes, the same size.
            num_classes: Classes of the data set.
            ignore_index: Label of pixels that do not count.

        Returns:
            Intersection, union, predicted and labelled pixels, float32 `[num_classes]` each.
        """
        if num_classes == 1:  # then torch.histc takes its limits from the values
            return StockIoUMetric.intersect_and_union(pred_label, label, num_classes, ignore_index)
        counts = label != ignore_index
        right = counts & (pred_label == label)
        pred_label, label = pred_label.float(), label.float()

        def histogram(classes: Tensor, where: Tensor) -> Tensor:
            # A value beyond the limits is not counted.
            classes = torch.where(where, classes, -1)
            return torch.histc(classes, bins=num_classes, min=0, max=num_classes - 1)

        intersect, predicted = histogram(label, right), histogram(pred_label, counts)
        labelled = histogram(label, counts)
        return intersect, predicted + labelled - intersect, predicted, labelled


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
        self._members()
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """mmseg's metrics, then those of classes and groups.

        Args:
            results: Per image a tuple of four histograms [num_classes]: intersection, union,
                predicted and labelled pixels, as `IoUMetric.process` collects them.
        """
        members = self._members()
        metrics = super().compute_metrics(results)
        if not results or self.format_only:
            return metrics
        areas = [sum(column) for column in zip(*results, strict=True)]
        iou = self.total_area_to_metrics(*areas, ["mIoU"], self.nan_to_num)["IoU"] * 100
        for name, value in zip(self.dataset_meta["classes"], iou.tolist(), strict=True):
            if not math.isnan(value):
                metrics[f"IoU.{name}"] = round(value, 2)
        for group, indices in members.items():
            values = iou[indices]
            if not np.isnan(values).all():
                metrics[f"mIoU.{group}"] = round(float(np.nanmean(values)), 2)
        return metrics

    def _members(self) -> dict[str, list[int]]:
        """Indices of the classes of each group."""
        classes = self.dataset_meta["classes"]
        groups = self.groups
        if groups is None:
            thin = [name for name in THIN_CLASSES if name in classes]
            groups = {"thin": thin} if thin else {}
        return {
            group: class_indices(classes, names, f"group {group!r}")
            for group, names in groups.items()
        }


def _on_cpu(results: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """The same results on the CPU, in one transfer."""
    if not results or not isinstance(results[0], tuple) or not results[0][0].is_cuda:
        return results
    flat = torch.stack([area for areas in results for area in areas]).cpu()
    return [tuple(areas) for areas in flat.unflatten(0, (len(results), -1))]
