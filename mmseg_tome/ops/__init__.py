"""The operations on tokens that merging needs, on plain tensors.

This is the one place that chooses an implementation, by `backend.use_triton`: the functions of
`matching`, `assignment` and `segment` in torch, or the Triton kernels in the files beside them.
Both give the same results to rounding; the kernels' are the same bits on every run.
"""

import torch
from torch import Tensor

from mmseg_tome.ops import assignment, backend, matching, segment
from mmseg_tome.ops.backend import BackendError, get_backend, set_backend, use_triton
from mmseg_tome.ops.segment import SegmentOrder

if backend.HAVE_OPERATORS:
    from mmseg_tome.ops import operators

__all__ = [
    "BackendError",
    "SegmentOrder",
    "assign",
    "gather_segments",
    "gather_segments_add",
    "get_backend",
    "match",
    "segment_mean",
    "segment_order",
    "set_backend",
]


def match(metric: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar destination of every source, see `matching.match`; without a gradient."""
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
        ValueError: `r` is negative or larger than the number of sources.
    """
    if not 0 <= r <= src.shape[0]:
        raise ValueError(f"r must be between 0 and the {src.shape[0]} sources, got {r}")
    function = operators.assign if use_triton(similarity) else assignment.assign
    return function(similarity, nearest, r, src, dst, num_tokens)


def segment_order(slot: Tensor, num_slots: int) -> SegmentOrder | None:
    """What a slot map's merging can reuse, see `segment.segment_order`.

    None where the torch functions run, which do without. `segment_mean` and the gradient of
    `gather_segments` compute it where it is not given: worth keeping for a map used twice.
    """
    return SegmentOrder(*operators.segment_order(slot, num_slots)) if use_triton(slot) else None


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
    _check_map(slot, x)
    if not use_triton(x):
        return segment.segment_mean(x, slot, num_slots)
    order = order or operators.segment_order(slot, num_slots)
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
    _check_map(slot, y, tokens=False)
    if not use_triton(y):
        return segment.gather_segments(y, slot)
    return operators.expand(y, slot, *(order or (None, None)), None, False)


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
    _check_map(slot, residual)
    _check_map(slot, y, tokens=False)
    if not use_triton(y, residual):
        return segment.gather_segments_add(y, slot, residual)
    return operators.expand(y, slot, *(order or (None, None)), residual, False)


def _check_map(slot: Tensor, x: Tensor, tokens: bool = True) -> None:
    """Raise ValueError if the map is not of this batch, or of as many tokens."""
    if slot.shape[0] not in (1, x.shape[0]) or (tokens and slot.shape[1] != x.shape[1]):
        raise ValueError(f"a slot map {tuple(slot.shape)} does not fit {tuple(x.shape)}")
