"""Local merging: the most alike windows of the grid merge, the others keep their tokens.

ALGM (arXiv 2406.09936, section 3.1) merges 2x2 windows whose tokens are alike in a first step, CTS
(arXiv 2306.02095, section 3) patches that share a class. Here how many windows merge follows from
the ratio alone, so that shapes are static; which ones follows from the tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_tome import ops
from mmseg_tome.merging.slot_map import SlotMap
from mmseg_tome.merging.strategies.base import (
    MergingStrategy,
    check_ratio,
    check_stride,
    register_strategy,
)
from mmseg_tome.merging.strategies.bipartite import part_of
from mmseg_tome.merging.strategies.identity import identity_map
from mmseg_tome.merging.strategies.neighbour import window_map


@register_strategy("local")
@dataclass(frozen=True)
class LocalMerging(MergingStrategy):
    """Average the windows whose tokens are most like their mean.

    Windows that the border of the grid cuts are compared among themselves, and about the same share
    of them merges as of the full ones. At the largest ratio, 1 - 1 / (sy * sx), the map is that of
    `n2d`.

    Attributes:
        ratio: Fraction of the tokens to remove, in [0, 1); as many whole windows go as that allows.
        stride: Size `(sy, sx)` of a window in tokens.
    """

    ratio: float
    stride: tuple[int, int] = (2, 2)

    def __post_init__(self):
        check_ratio(self.ratio)
        check_stride(self.stride)

    @torch.no_grad()
    def __call__(self, metric: Tensor, hw: tuple[int, int]) -> SlotMap:
        stride = tuple(self.stride)
        counts = self._merging(hw)
        windows = window_map(hw, stride, metric.device)
        if counts == ops.window_counts(hw, stride):
            return windows
        if not any(counts):
            return identity_map(hw[0] * hw[1], metric.device)
        similarity = ops.window_similarity(metric, hw, stride)  # [B, windows]
        slot, order = ops.assign_windows(
            similarity, windows.slot, windows.order, counts, hw, stride
        )
        return SlotMap(slot, self.num_slots(hw), order, windows.largest)

    def num_slots(self, hw: tuple[int, int]) -> int:
        return ops.slots_left(self._merging(hw), hw, tuple(self.stride))

    def _merging(self, hw: tuple[int, int]) -> ops.Counts:
        """How many windows of each shape merge."""
        there = ops.window_counts(hw, self.stride)
        size = ops.window_sizes(hw, self.stride)
        tokens = hw[0] * hw[1]
        most = tokens - sum(there)
        removed = min(part_of(tokens, self.ratio), most)
        if not removed:
            return ops.Counts(0, 0, 0, 0)
        # Of those that the border cuts the same share, of full ones what then is left to remove.
        cut = [count * removed // most for count in there[1:]]
        left = removed - sum(count * (n - 1) for count, n in zip(cut, size[1:], strict=True))
        return ops.Counts(min(left // max(size.full - 1, 1), there.full), *cut)
