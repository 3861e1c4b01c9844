"""Metrics, registered in the scope `mmseg_tome`."""

from mmseg_tome.evaluation.agreement import AgreementMetric
from mmseg_tome.evaluation.boundary_iou import BoundaryIoUMetric
from mmseg_tome.evaluation.iou import GroupedIoUMetric, IoUMetric
from mmseg_tome.evaluation.size_band_iou import SizeBandIoUMetric

__all__ = [
    "AgreementMetric",
    "BoundaryIoUMetric",
    "GroupedIoUMetric",
    "IoUMetric",
    "SizeBandIoUMetric",
]
