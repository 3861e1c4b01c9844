"""Data sets that the mm packages lack, registered under the scope `mmseg_tome`."""

# `compat` first: mmseg itself may not import without it.
from mmseg_tome import compat

__all__ = []

if compat.has("mmseg"):
    from mmseg_tome.datasets.camvid import CamVidDataset

    __all__ += ["CamVidDataset"]
