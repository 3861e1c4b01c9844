"""mmseg's IoUMetric without a wait for the GPU at every image."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from mmseg.evaluation import IoUMetric as StockIoUMetric
from torch import Tensor

from mmseg_tome.registry import METRICS

AHEAD = 2
"""Batches that the host may be ahead of the GPU: more would only take memory."""


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


def _on_cpu(results: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """The same results on the CPU, in one transfer."""
    if not results or not isinstance(results[0], tuple) or not results[0][0].is_cuda:
        return results
    flat = torch.stack([area for areas in results for area in areas]).cpu()
    return [tuple(areas) for areas in flat.unflatten(0, (len(results), -1))]
