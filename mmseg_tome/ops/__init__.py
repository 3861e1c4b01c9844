"""The operations on tokens that have a fast path, on plain tensors.

An operation is two files: `NAME.py` says what it computes, checks shapes, chooses an implementation
(`backend`) and holds those in torch and, where ONNX needs another one, in its operators;
`NAME_triton.py` holds the kernels as operators of torch. All give the same results to rounding; the
kernels' are the same bits on every run.
"""

from mmseg_tome.ops.assignment import assign_ordered
from mmseg_tome.ops.attention import attend
from mmseg_tome.ops.backend import BackendError, get_backend, set_backend, use_onnx, use_triton
from mmseg_tome.ops.depthwise import depthwise_gelu
from mmseg_tome.ops.labelling import Windows, label_map
from mmseg_tome.ops.local import (
    Counts,
    assign_windows,
    slots_left,
    window_counts,
    window_similarity,
    window_sizes,
)
from mmseg_tome.ops.matching import match
from mmseg_tome.ops.normalization import add_layer_norm, layer_norm
from mmseg_tome.ops.resizing import add_resized
from mmseg_tome.ops.segment import (
    SegmentOrder,
    gather_segments,
    gather_segments_add,
    log_sizes,
    segment_mean,
    segment_order,
    sizes,
)

__all__ = [
    "BackendError",
    "Counts",
    "SegmentOrder",
    "Windows",
    "add_layer_norm",
    "add_resized",
    "assign_ordered",
    "assign_windows",
    "attend",
    "depthwise_gelu",
    "gather_segments",
    "gather_segments_add",
    "get_backend",
    "label_map",
    "layer_norm",
    "log_sizes",
    "match",
    "segment_mean",
    "segment_order",
    "set_backend",
    "sizes",
    "slots_left",
    "use_onnx",
    "use_triton",
    "window_counts",
    "window_similarity",
    "window_sizes",
]
