"""Metrics, registered in the scope `mmseg_tome`."""

from mmseg_tome.evaluation.agreement import AgreementMetric
from mmseg_tome.evaluation.boundary_iou import BoundaryIoUMetric
from mmseg_tome.evaluation.grouped_iou import GroupedIoUMetric
from mmseg_tome.evaluation.size_band_iou import SizeBandIoUMetric
from mmseg_tome.evaluation.unmerged import without_merging

__all__ = [
    "AgreementMetric",
    "BoundaryIoUMetric",
    "GroupedIoUMetric",
    "SizeBandIoUMetric",
    "without_merging",
]
