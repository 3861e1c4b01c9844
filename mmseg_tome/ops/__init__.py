"""The operations on tokens that have a fast path, on plain tensors.

This is the one place that chooses an implementation, by `backend.use_triton`: the functions of
`matching`, `assignment` and `segment`, which merging needs, and of `normalization`, `depthwise`,
`resizing` and `labelling`, which the rest of a model needs, in torch; or the Triton kernels in the
files beside them. Both give the same results to rounding; the kernels' are the same bits on every
run.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmseg_tome.ops import (
    assignment,
    attention,
    backend,
    depthwise,
    labelling,
    local,
    matching,
    normalization,
    onnx,  # noqa: F401  in an ONNX export its twins run
    resizing,
    segment,
    shapes,
)
from mmseg_tome.ops.backend import BackendError, get_backend, set_backend, use_triton
from mmseg_tome.ops.labelling import Windows
from mmseg_tome.ops.local import Counts, slots_left, window_counts, window_sizes
from mmseg_tome.ops.segment import SegmentOrder

if backend.HAVE_OPERATORS:
    from mmseg_tome.ops import layer_operators, operators

__all__ = [
    "BackendError",
    "Counts",
    "SegmentOrder",
    "Windows",
    "add_layer_norm",
    "add_resized",
    "assign",
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
    "slots_left",
    "window_counts",
    "window_similarity",
    "window_sizes",
]

NO_ORDER = None, None, None


def match(metric: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar destination of every source, see `matching.match`; without a gradient.

    Raises:
        ValueError: The shapes do not fit, or there is no destination.
    """
    shapes.check_match(metric, src, dst)
    metric = metric.detach()
    if use_triton(metric):
        # Where torch's matrix product would take half precision, float32 may be rounded to tf32.
        return operators.match(metric, src, dst, torch.is_autocast_enabled())
    return matching.match(metric, src, dst)


def assign(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> Tensor:
    """The slot map that merges the `r` best sources, see `assignment.assign`.

    Raises:
        ValueError: The shapes do not fit, or `r` is negative or larger than the number of sources.
    """
    return assign_ordered(similarity, nearest, r, src, dst, num_tokens)[0]


def assign_ordered(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> tuple[Tensor, SegmentOrder | None]:
    """`assign`, and what `segment_order` gives for its map, in one step.

    The order is right where `src` and `dst` are in ascending order each.

    Raises:
        ValueError: The shapes do not fit, or `r` is negative or larger than the number of sources.
    """
    shapes.check_assign(similarity, nearest, r, src, dst, num_tokens)
    if not use_triton(similarity):
        return assignment.assign(similarity, nearest, r, src, dst, num_tokens), None
    slot, *order = operators.assign_ordered(similarity, nearest, r, src, dst, num_tokens)
    return slot, SegmentOrder(*order, num_tokens)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention with a bias of each key, see `attention.attend`.

    The kernel is for inference in half precision, with a bias: torch's are as good without one.

    Raises:
        ValueError: The shapes do not fit.
    """
    shapes.check_attend(q, k, v, bias)
    is_kernels = (
        bias is not None
        and bias.dtype == q.dtype
        and not (dropout or torch.is_grad_enabled())
        and q.dtype == k.dtype == v.dtype
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[3] in attention.HEAD_SIZES
    )
    if not is_kernels or not use_triton(q, k, v):
        return attention.attend(q, k, v, bias, dropout)
    return operators.attend(q, k, v, bias)


def window_similarity(metric: Tensor, hw: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """How alike the tokens of each window are, see `local.window_similarity`; without a gradient.

    Raises:
        ValueError: The shapes do not fit.
    """
    shapes.check_windows_of(metric, hw, stride)
    metric = metric.detach()
    if use_triton(metric):
        return operators.window_similarity(metric, hw, stride)
    return local.window_similarity(metric, hw, stride)


def assign_windows(
    similarity: Tensor,
    windows: Tensor,
    order: SegmentOrder | None,
    counts: Counts,
    hw: tuple[int, int],
    stride: tuple[int, int],
) -> tuple[Tensor, SegmentOrder | None]:
    """The slot map that merges the most alike windows, see `local.assign_windows`, and its order.

    Args:
        similarity: How alike each window is, `[B, windows]`.
        windows: Window of each token, `[1, H * W]`, int64.
        order: `segment_order` of that map; the tokens of the new one are in the same order.
        counts: How many windows of each shape merge.
        hw: The grid of the tokens.
        stride: Size `(sy, sx)` of a window in tokens.

    Raises:
        ValueError: The shapes do not fit, or there are not so many windows.
    """
    shapes.check_assign_windows(similarity, windows, counts, hw, stride)
    if not use_triton(similarity) or order is None:
        return local.assign_windows(similarity, windows, counts, hw, stride), None
    num_slots = local.slots_left(counts, hw, stride)
    slot, offsets = operators.assign_windows(similarity, counts, num_slots, hw, stride)
    return slot, SegmentOrder(order.tokens, offsets, order.largest)


def segment_order(slot: Tensor, num_slots: int, largest: int | None = None) -> SegmentOrder | None:
    """What a slot map's merging can reuse, see `segment.segment_order`.

    None where the torch functions run, which do without. `segment_mean` and the gradient of
    `gather_segments` compute it where it is not given: worth keeping for a map used twice.
    """
    if not use_triton(slot):
        return None
    return SegmentOrder(*operators.segment_order(slot, num_slots), largest or slot.shape[1])


def log_sizes(
    slot: Tensor, num_slots: int, dtype: torch.dtype, order: SegmentOrder | None = None
) -> Tensor:
    """The logarithm of the tokens in each slot, `[B or 1, 1, 1, M]`, see `segment.log_sizes`.

    Raises:
        ValueError: The order is not that of the map.
    """
    if order is None or not use_triton(slot):
        return segment.log_sizes(slot, num_slots, dtype)
    shapes.check_order(order, slot, num_slots)
    return operators.log_sizes(order.offsets, dtype)[:, None, None, :num_slots]


def segment_mean(
    x: Tensor, slot: Tensor, num_slots: int, order: SegmentOrder | None = None
) -> Tensor:
    """Average the tokens that share a slot, `[B, N, C] -> [B, M, C]`, see `segment.segment_mean`.

    Args:
        x: Tokens, `[B, N, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, num_slots)`.
        num_slots: How many slots there are, M. No slot may be empty.
        order: `segment_order(slot, num_slots)`, where it is at hand.

    Raises:
        ValueError: The shapes do not fit.
    """
    shapes.check_map(slot, x)
    if order is not None:
        shapes.check_order(order, slot, num_slots)
    if not use_triton(x):
        return segment.segment_mean(x, slot, num_slots)
    order = order or segment_order(slot, num_slots)
    return operators.reduce(x, slot, *order, True)


def gather_segments(y: Tensor, slot: Tensor, order: SegmentOrder | None = None) -> Tensor:
    """Hand every token its slot's value, `[B, M, C] -> [B, N, C]`, see `segment.gather_segments`.

    Args:
        y: One row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`.
        order: `segment_order(slot, M)`, where it is at hand; only the gradient needs it.

    Raises:
        ValueError: The shapes do not fit.
    """
    shapes.check_map(slot, y, tokens=False, order=order)
    if not use_triton(y):
        return segment.gather_segments(y, slot)
    return operators.expand(y, slot, *(order or NO_ORDER), None, False)


def gather_segments_add(
    y: Tensor, slot: Tensor, residual: Tensor, order: SegmentOrder | None = None
) -> Tensor:
    """`residual + gather_segments(y, slot)` in one step; dtypes promote as in a sum.

    Args:
        y: One row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`.
        residual: What to add to, `[B, N, C]`.
        order: `segment_order(slot, M)`, where it is at hand; only the gradient needs it.

    Raises:
        ValueError: The shapes do not fit.
    """
    shapes.check_sum(residual, y, slot, order)
    if not use_triton(y, residual):
        return segment.gather_segments_add(y, slot, residual)
    return operators.expand(y, slot, *(order or NO_ORDER), residual, False)


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Normalise each token, `[B, N, C]` in and out, see `normalization.layer_norm`.

    Raises:
        ValueError: The shapes do not fit.
    """
    shapes.check_tokens(x)
    shapes.check_channels(x, weight=weight, bias=bias, shift=shift)
    if not use_triton(x, weight):
        return normalization.layer_norm(x, weight, bias, eps, dtype, shift)
    if shift is not None and torch.is_grad_enabled():  # the kernel gives it no gradient
        x, shift = x + shift, None
    return layer_operators.layer_norm(x, weight, bias, eps, dtype or x.dtype, shift)[0]


def add_layer_norm(
    residual: Tensor,
    y: Tensor,
    slot: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
    order: SegmentOrder | None = None,
) -> tuple[Tensor, Tensor]:
    """`residual + y`, or `+ y[slot]`, and that sum normalised, see `normalization.add_layer_norm`.

    Args:
        residual: Tokens, `[B, N, C]`.
        y: Their update, `[B, N, C]`, or with a slot map one row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`, or None.
        weight: `[C]`.
        bias: `[C]`.
        eps: Added to the variance.
        dtype: Data type of the normalised sum, that of the sum if None.
        order: `segment_order(slot, M)`, where it is at hand; only the gradient needs it.

    Raises:
        ValueError: The shapes do not fit.
    """
    shapes.check_sum(residual, y, slot, order)
    shapes.check_channels(residual, weight=weight, bias=bias)
    if not use_triton(residual, y, weight):
        return normalization.add_layer_norm(residual, y, slot, weight, bias, eps, dtype)
    dtype = dtype or torch.promote_types(residual.dtype, y.dtype)
    order = order or NO_ORDER
    return layer_operators.add_layer_norm(residual, y, slot, *order, weight, bias, eps, dtype)[:2]


def depthwise_gelu(x: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> Tensor:
    """A depthwise 3x3 convolution and GELU, see `depthwise.depthwise_gelu`.

    Raises:
        ValueError: The grid does not have as many tokens as `x`, or other shapes do not fit.
    """
    shapes.check_depthwise(x, weight, bias, hw)
    if not use_triton(x, weight):
        return depthwise.depthwise_gelu(x, weight, bias, hw)
    return layer_operators.depthwise_gelu(x, weight, bias, *hw)


def add_resized(x: Tensor, maps: Sequence[Tensor], relu: bool) -> Tensor:
    """Add maps resized bilinearly to the size of `x`, see `resizing.add_resized`.

    The kernel is for inference: where gradients are computed, torch does it.

    Raises:
        ValueError: The maps do not have the batch and channels of `x`.
    """
    shapes.check_maps(x, maps)
    if torch.is_grad_enabled() or not use_triton(x, *maps):
        return resizing.add_resized(x, maps, relu)
    return layer_operators.add_resized(x, maps, relu)


def label_map(
    logits: Tensor,
    windows: Windows,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The class of each pixel from logits of windows, see `labelling.label_map`; no gradient.

    Raises:
        ValueError: The shapes do not fit.
    """
    logits = logits.detach()
    size = shapes.check_windows(logits, windows, padding, size)
    if not use_triton(logits):
        return labelling.label_map(logits, windows, padding, size)
    return layer_operators.label_map(
        logits, windows.hw, windows.crop, windows.stride, padding, size
    )
