"""Metrics, registered in the scope `mmseg_tome`."""

from mmseg_tome.evaluation.grouped_iou import GroupedIoUMetric

__all__ = ["GroupedIoUMetric"]
