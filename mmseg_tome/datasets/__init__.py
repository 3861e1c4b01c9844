"""Data sets that the mm packages lack, registered under the scope `mmseg_tome`."""

# `compat` first: the mm packages themselves may not import without it.
from mmseg_tome import compat

__all__ = []

if compat.has("mmseg"):
    from mmseg_tome.datasets.camvid import CamVidDataset

    __all__ += ["CamVidDataset"]

if compat.has("mmpose"):
    from mmseg_tome.datasets.jump_broadcast import JumpBroadcastDataset

    __all__ += ["JumpBroadcastDataset"]
