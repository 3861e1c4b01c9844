"""The two steps of local merging: how alike each window is, and which windows merge.

ALGM (arXiv 2406.09936, section 3.1) and CTS (arXiv 2306.02095, section 3) merge within windows of
the grid first, for what is alike in an image is mostly side by side. No token is compared with one
of another window, so there is no product of all tokens with many.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmseg_tome.ops import segment
from mmseg_tome.ops.twins import replaceable


class Counts(NamedTuple):
    """Windows of a grid by their shape: those that are full, and those that its border cuts."""

    full: int
    right: int
    bottom: int
    corner: int


def window_counts(hw: tuple[int, int], stride: tuple[int, int]) -> Counts:
    """How many windows of each shape a grid has; one that the border cuts is there, too."""
    (height, width), (sy, sx) = hw, stride
    rows, cols = height // sy, width // sx
    cut_rows, cut_cols = -(-height // sy) - rows, -(-width // sx) - cols  # 1 or 0
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


def window_similarity(
    metric: Tensor, window: Tensor, hw: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """How alike the tokens of each window are: the mean of their cosine similarity to their mean.

    Args:
        metric: What similarity is measured on, `[B, H * W, C]`.
        window: Window of each token, in raster order, `[1, H * W]`, int64.
        hw: The grid of the tokens.
        stride: Size `(sy, sx)` of a window in tokens.

    Returns:
        `[B, windows]`, in float32 at least. A token that is zero or not finite counts as 0, and so
        does a window whose mean is.
    """
    wide = torch.promote_types(metric.dtype, torch.float32)
    x = metric.to(wide)
    unit = _direction(x)
    num_windows = sum(window_counts(hw, stride))
    # Both means in one step; that of cosines is the mean direction along the direction of the mean.
    means = segment.segment_mean(torch.cat([unit, x], dim=2), window, num_windows)
    of_units, of_tokens = means.chunk(2, dim=2)  # [B, windows, C] each
    return (of_units * _direction(of_tokens)).sum(dim=2)


def assign_windows(
    similarity: Tensor,
    window: Tensor,
    counts: Counts,
    hw: tuple[int, int],
    stride: tuple[int, int],
) -> Tensor:
    """The slot map in which the most alike windows merge and the others keep their tokens.

    Slots are numbered from window to window, in raster order, and within one that stays from token
    to token. Of equally alike windows the first ones merge; NaN is the least alike.

    Args:
        similarity: How alike each window is, `[B, windows]`.
        window: Window of each token, in raster order, `[1, H * W]`, int64.
        counts: How many windows of each shape merge.
        hw: The grid of the tokens.
        stride: Size `(sy, sx)` of a window in tokens.

    Returns:
        The slot of each token, `[B, H * W]`, int64.
    """
    (height, width), (sy, sx) = hw, stride
    rows, cols = height // sy, width // sx  # of full windows
    of_rows = similarity.unflatten(1, (-(-height // sy), -(-width // sx)))
    merges = torch.cat(
        [
            torch.cat(
                [
                    _among(of_rows[:, :rows, :cols], counts.full),
                    _among(of_rows[:, :rows, cols:], counts.right),
                ],
                dim=2,
            ),
            torch.cat(
                [
                    _among(of_rows[:, rows:, :cols], counts.bottom),
                    _among(of_rows[:, rows:, cols:], counts.corner),
                ],
                dim=2,
            ),
        ],
        dim=1,
    ).flatten(1)  # [B, windows], 1 or 0
    tall, place = _places(hw, stride, similarity.device)
    slots = torch.where(merges.bool(), torch.ones_like(merges), tall)  # [B, windows]
    first = slots.cumsum(dim=1) - slots
    window = window[0]
    return first.index_select(1, window) + place * (1 - merges.index_select(1, window))


def _places(
    hw: tuple[int, int], stride: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Tokens of each window, `[windows]`, and each token's place in its window, `[H * W]`."""
    (height, width), (sy, sx) = hw, stride
    row, col = torch.arange(height, device=device), torch.arange(width, device=device)
    top, left = (
        torch.arange(0, height, sy, device=device),
        torch.arange(0, width, sx, device=device),
    )
    tall, wide = (height - top).clamp_max(sy), (width - left).clamp_max(sx)
    size = (tall[:, None] * wide).flatten()
    place = (row % sy)[:, None] * wide.index_select(0, col // sx) + col % sx
    return size, place.flatten()


def _among(similarity: Tensor, r: int) -> Tensor:
    """Which of windows `[B, rows, cols]` of one shape are the `r` most alike, 1 or 0, int64."""
    return most_alike(similarity.flatten(1), r).view(similarity.shape)


@replaceable
def most_alike(similarity: Tensor, r: int) -> Tensor:
    """Which are the `r` largest similarities of each row, `[B, W]`, 1 or 0, int64."""
    infinite = float("inf")
    ranked = similarity.nan_to_num(nan=-infinite, posinf=infinite, neginf=-infinite)
    # A stable sort, so that ties keep the lower index on every device.
    order = ranked.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(order).scatter(1, order[:, :r], 1)


def _direction(x: Tensor) -> Tensor:
    """`x` over its norm in the last dimension; 0 where there is no direction."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (x / norm).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
