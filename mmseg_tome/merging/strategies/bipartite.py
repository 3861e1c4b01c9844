"""Bipartite soft matching: merge the source tokens that are most like a destination token.

ToMe (arXiv 2210.09461, section 3) splits a sequence into alternating sets; ToMe for Stable
Diffusion (arXiv 2303.17604, section 4) and SegFormer++ (section 3) take one destination from
each cell of the grid.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from mmseg_tome import ops
from mmseg_tome.merging.grid_cache import cached_per_grid
from mmseg_tome.merging.slot_map import SlotMap
from mmseg_tome.merging.strategies.base import (
    MergingStrategy,
    check_ratio,
    check_stride,
    register_strategy,
)
from mmseg_tome.merging.strategies.identity import identity_map


class Split(NamedTuple):
    """A grid's tokens in two sets, each ascending: indices of destinations `[D]`, sources `[S]`."""

    dst: Tensor
    src: Tensor


@register_strategy("bsm")
@dataclass(frozen=True)
class BipartiteMatching(MergingStrategy):
    """Destinations are the top-left tokens of the grid's full cells, all others are sources.

    Attributes:
        ratio: Fraction of the tokens to remove, in [0, 1); no more than the sources go.
        stride: Size `(sy, sx)` of a cell in tokens.
    """

    ratio: float
    stride: tuple[int, int] = (2, 2)

    def __post_init__(self):
        check_ratio(self.ratio)
        check_stride(self.stride)

    def __call__(self, metric: Tensor, hw: tuple[int, int]) -> SlotMap:
        split = split_cells(hw, tuple(self.stride), metric.device)
        return merge_best(metric, split, self._removed(hw))

    def num_slots(self, hw: tuple[int, int]) -> int:
        return hw[0] * hw[1] - self._removed(hw)

    def _removed(self, hw: tuple[int, int]) -> int:
        tokens = hw[0] * hw[1]
        destinations = (hw[0] // self.stride[0]) * (hw[1] // self.stride[1])
        if destinations == 0:  # the grid is smaller than one cell
            return 0
        removed = part_of(tokens, self.ratio)
        # Of sizes that are not known when a model is traced, to compare is to restrict them.
        if self.ratio <= 1 - 1 / (self.stride[0] * self.stride[1]):
            return removed
        return min(removed, tokens - destinations)


@register_strategy("tome")
@dataclass(frozen=True)
class AlternatingMatching(MergingStrategy):
    """The original ToMe: in raster order, odd tokens are destinations, even ones are sources.

    Attributes:
        ratio: Fraction of the tokens to remove, in [0, 1); no more than the sources, half, go.
    """

    ratio: float

    def __post_init__(self):
        check_ratio(self.ratio)

    def __call__(self, metric: Tensor, hw: tuple[int, int]) -> SlotMap:
        tokens = hw[0] * hw[1]
        split = split_alternating(tokens, metric.device)
        return merge_best(metric, split, self._removed(tokens))

    def num_slots(self, hw: tuple[int, int]) -> int:
        tokens = hw[0] * hw[1]
        return tokens - self._removed(tokens)

    def _removed(self, tokens: int) -> int:
        destinations = tokens // 2
        if destinations == 0:
            return 0
        removed = part_of(tokens, self.ratio)
        return removed if self.ratio <= 0.5 else min(removed, tokens - destinations)


def part_of(tokens: int, ratio: float) -> int:
    """`int(tokens * ratio)`, also of a number that is a symbol while a model is traced."""
    if isinstance(tokens, int):
        return int(tokens * ratio)
    fraction = Fraction(ratio).limit_denominator(10**6)
    return tokens * fraction.numerator // fraction.denominator


@torch.no_grad()
def merge_best(metric: Tensor, split: Split, r: int) -> SlotMap:
    """Merge the `r` sources that are most similar to a destination into it.

    Slots count the destinations first, then the sources that stay, each set in raster order.

    Args:
        metric: What cosine similarity is measured on, `[B, N, C]`.
        split: Destinations and sources among the N tokens.
        r: Number of tokens to remove, at most the number of sources.
    """
    tokens = split.src.shape[0] + split.dst.shape[0]
    if r == 0:
        return identity_map(tokens, metric.device)
    similarity, nearest = ops.match(metric, split.src, split.dst)  # [B, S] each
    slot, order = ops.assign_ordered(similarity, nearest, r, split.src, split.dst, tokens)
    return SlotMap(slot, tokens - r, order)  # slot: [B, N]


@cached_per_grid
def split_cells(hw: tuple[int, int], stride: tuple[int, int], device: torch.device) -> Split:
    """Take the top-left token of each full cell as a destination."""
    (height, width), (sy, sx) = hw, stride
    row = torch.arange(height // sy, device=device) * sy
    col = torch.arange(width // sx, device=device) * sx
    return _split((row[:, None] * width + col).reshape(-1), height * width)


@cached_per_grid
def split_alternating(tokens: int, device: torch.device) -> Split:
    """Take every second token as a destination, beginning with the second."""
    return _split(torch.arange(1, tokens, 2, device=device), tokens)


def _split(dst: Tensor, tokens: int) -> Split:
    every = torch.arange(tokens, device=dst.device)
    is_src = torch.ones_like(every).scatter(0, dst, torch.zeros_like(dst))  # [N], 1 or 0
    # Sources in raster order without a data-dependent shape or a sort: each goes to its number
    # among the sources, all destinations to one place behind them.
    num_src = tokens - dst.shape[0]
    place = torch.where(is_src.bool(), is_src.cumsum(0) - 1, num_src)
    return Split(dst, every.new_zeros(num_src + 1).scatter(0, place, every)[:num_src])
