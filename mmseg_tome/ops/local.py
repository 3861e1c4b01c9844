"""The two steps of local merging: how alike each window is, and which windows merge.

ALGM (arXiv 2406.09936, section 3.1) and CTS (arXiv 2306.02095, section 3) merge within windows of
the grid first, for what is alike in an image is mostly side by side. No token is compared with one
of another window, so there is no product of all tokens with many.
"""

import functools
import operator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.assignment import most_similar
from mmseg_tome.ops.backend import use_triton
from mmseg_tome.ops.segment import SegmentOrder
from mmseg_tome.ops.shapes import check_tokens


class Counts(NamedTuple):
    """Windows of a grid by their shape: those that are full, and those that its border cuts."""

    full: int
    right: int
    bottom: int
    corner: int


def window_grid(hw: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of windows, those that the border cuts with them."""
    # Rounded up by numbers from 0 on: ONNX divides towards 0.
    return (hw[0] + stride[0] - 1) // stride[0], (hw[1] + stride[1] - 1) // stride[1]


def window_counts(hw: tuple[int, int], stride: tuple[int, int]) -> Counts:
    """How many windows of each shape a grid has; one that the border cuts is there, too."""
    rows, cols = hw[0] // stride[0], hw[1] // stride[1]
    all_rows, all_cols = window_grid(hw, stride)
    cut_rows, cut_cols = all_rows - rows, all_cols - cols  # 1 or 0
    return Counts(rows * cols, rows * cut_cols, cut_rows * cols, cut_rows * cut_cols)


def window_sizes(hw: tuple[int, int], stride: tuple[int, int]) -> Counts:
    """How many tokens a window of each shape has."""
    (height, width), (sy, sx) = hw, stride
    cut_y, cut_x = height % sy, width % sx
    return Counts(sy * sx, sy * cut_x, cut_y * sx, cut_y * cut_x)


def slots_left(counts: Counts, hw: tuple[int, int], stride: tuple[int, int]) -> int:
    """Number of slots M where `counts` windows of each shape merge."""
    merged = zip(counts, window_sizes(hw, stride), strict=True)
    return hw[0] * hw[1] - sum(count * (size - 1) for count, size in merged)


def window_similarity(metric: Tensor, hw: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """How alike the tokens of each window are: the mean of their cosine similarity to their mean.

    There is no gradient.

    Args:
        metric: What similarity is measured on, `[B, H * W, C]`.
        hw: The grid of the tokens.
        stride: Size `(sy, sx)` of a window in tokens.

    Returns:
        `[B, windows]`, in float32 at least. A token that is zero counts as 0, and so does a window
        whose mean is zero or that holds a token that is not finite.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_tokens(metric)
    if metric.shape[1] != hw[0] * hw[1] or min(stride) < 1:
        raise ValueError(
            f"tokens {tuple(metric.shape)} do not fit a grid of {hw[0]}x{hw[1]} with windows of "
            f"{stride}"
        )
    metric = metric.detach()
    if use_triton(metric):
        from mmseg_tome.ops import local_triton

        return local_triton.window_similarity(metric, hw, stride)
    return window_similarity_torch(metric, hw, stride)


def assign_windows(
    similarity: Tensor,
    windows: Tensor,
    order: SegmentOrder | None,
    counts: Counts,
    hw: tuple[int, int],
    stride: tuple[int, int],
) -> tuple[Tensor, SegmentOrder | None]:
    """The slot map in which the most alike windows merge and the others keep their tokens.

    Slots are numbered from window to window, in raster order, and within one that stays from token
    to token. Of equally alike windows the first ones merge; NaN is the least alike.

    Args:
        similarity: How alike each window is, `[B, windows]`.
        windows: Window of each token, in raster order, `[1, H * W]`, int64.
        order: `segment_order` of that map; the tokens of the new one are in the same order.
        counts: How many windows of each shape merge.
        hw: The grid of the tokens.
        stride: Size `(sy, sx)` of a window in tokens.

    Returns:
        The slot of each token, `[B, H * W]`, int64, and the order of this map.

    Raises:
        ValueError: The shapes do not fit, or there are not so many windows.
    """
    there = window_counts(hw, stride)
    if similarity.ndim != 2 or similarity.shape[1] != sum(there):
        raise ValueError(
            f"similarities {tuple(similarity.shape)} are not those of the {sum(there)} windows of "
            f"{stride} tokens on a grid of {hw[0]}x{hw[1]}"
        )
    if windows.shape != (1, hw[0] * hw[1]):
        raise ValueError(f"windows {tuple(windows.shape)} do not fit a grid of {hw[0]}x{hw[1]}")
    known = all(isinstance(n, int) for n in (*counts, *there))  # not as in a trace
    if len(counts) != 4 or (
        known and not all(0 <= r <= n for r, n in zip(counts, there, strict=True))
    ):
        raise ValueError(f"of {tuple(there)} windows {tuple(counts)} cannot merge")
    if order is None or not use_triton(similarity):
        return assign_windows_torch(similarity, windows, counts, hw, stride), None
    from mmseg_tome.ops import local_triton

    num_slots = slots_left(counts, hw, stride)
    slot, offsets = local_triton.assign_windows(similarity, counts, num_slots, hw, stride)
    return slot, SegmentOrder(order.tokens, offsets, order.largest)


def window_similarity_torch(metric: Tensor, hw: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """`window_similarity` in torch."""
    wide = torch.promote_types(metric.dtype, torch.float32)
    x = _whole_windows(metric.to(wide), hw, stride)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    unit = x / norm.masked_fill(norm == 0, float("inf"))
    # The mean of cosines is the mean direction along the direction of the mean, or of the sum. A
    # token that is not finite makes that of its window NaN, here and in the definition.
    of_units, of_tokens = _window_sums(unit, stride), _window_sums(x, stride)  # [B, windows, C]
    length = torch.linalg.vector_norm(of_tokens, dim=-1)
    along = (of_units * of_tokens).sum(dim=-1) / length
    return (along / _sizes(hw, stride, x.device)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def assign_windows_torch(
    similarity: Tensor,
    windows: Tensor,
    counts: Counts,
    hw: tuple[int, int],
    stride: tuple[int, int],
) -> Tensor:
    """`assign_windows` in torch, without the order."""
    merges = _merging(similarity, counts, hw, stride)  # [B, windows], 1 or 0
    slots = torch.where(merges.bool(), 1, _sizes(hw, stride, merges.device))  # [B, windows]
    first = slots.cumsum(dim=1) - slots
    window, place = windows[0], _places(hw, stride, merges.device)
    return first.index_select(1, window) + place * (1 - merges.index_select(1, window))


def _merging(
    similarity: Tensor, counts: Counts, hw: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """Which windows are the most alike of their shape, `[B, windows]`, 1 or 0, int64."""
    there = window_counts(hw, stride)
    none = torch.zeros_like(similarity, dtype=torch.int64)
    # What is not known when a model is traced may be there.
    kinds = [kind for kind, n in enumerate(there) if not (isinstance(n, int) and n == 0)]
    if len(kinds) == 1:
        best = most_similar(similarity, counts[kinds[0]])
        return none.scatter(1, best, torch.ones_like(best))
    best = most_similar(similarity, sum(there))  # [B, windows], all of them
    kind_of_best = _kinds(hw, stride, similarity.device)[best]
    merges = none
    for kind in kinds:
        of_kind = kind_of_best == kind
        merges = merges + (of_kind & (of_kind.cumsum(dim=1) <= counts[kind]))
    return none.scatter(1, best, merges)


def _whole_windows(x: Tensor, hw: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """The grid of tokens `[B, H * W, C]`, with zeros where the border cuts windows."""
    rows, cols = window_grid(hw, stride)
    below, beside = rows * stride[0] - hw[0], cols * stride[1] - hw[1]
    x = x.unflatten(1, hw)
    if isinstance(below, int) and isinstance(beside, int) and not (below or beside):
        return x
    return F.pad(x, (0, 0, 0, beside, 0, below))


def _window_sums(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """The sum of each window of a grid, `[B, rows * sy, cols * sx, C] -> [B, windows, C]`."""
    # Sums of slices: a pooling takes several times as long, and a size that is a symbol, as when a
    # model is traced, cannot be shown to divide into windows. Rows first: they leave less.
    x = functools.reduce(operator.add, (x[:, i :: stride[0]] for i in range(stride[0])))
    x = functools.reduce(operator.add, (x[:, :, i :: stride[1]] for i in range(stride[1])))
    return x.flatten(1, 2)


def _extents(size: int, step: int, device: torch.device) -> Tensor:
    """How many tokens each window has along a side of `size`, of which the last may be cut."""
    first = torch.arange((size + step - 1) // step, device=device) * step
    return (size - first).clamp_max(step)


def _sizes(hw: tuple[int, int], stride: tuple[int, int], device: torch.device) -> Tensor:
    """How many tokens each window has, `[windows]`, int64."""
    tall, wide = (_extents(*each, device) for each in zip(hw, stride, strict=True))
    return (tall[:, None] * wide).flatten()


def _kinds(hw: tuple[int, int], stride: tuple[int, int], device: torch.device) -> Tensor:
    """Which of `Counts` each window is among, `[windows]`, int64."""
    tall, wide = (_extents(*each, device) for each in zip(hw, stride, strict=True))
    return ((tall < stride[0]).long()[:, None] * 2 + (wide < stride[1]).long()).flatten()


def _places(hw: tuple[int, int], stride: tuple[int, int], device: torch.device) -> Tensor:
    """Each token's place in its window, `[H * W]`, int64."""
    (height, width), (sy, sx) = hw, stride
    row, col = torch.arange(height, device=device), torch.arange(width, device=device)
    wide = _extents(width, sx, device).index_select(0, col // sx)
    return ((row % sy)[:, None] * wide + col % sx).flatten()
