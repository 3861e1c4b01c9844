"""The operations on tokens that merging needs, on plain tensors.

This is the one place that chooses an implementation. Today that is the torch one for every
device; a faster kernel goes into a file of its own and is chosen here.
"""

from mmseg_tome.ops.matching import match
from mmseg_tome.ops.segment import gather_segments, segment_mean

__all__ = ["gather_segments", "match", "segment_mean"]
