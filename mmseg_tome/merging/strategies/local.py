"""Local merging: the most alike windows of the grid merge, the others keep their tokens.

ALGM (arXiv 2406.09936, section 3.1) merges 2x2 windows whose tokens are alike in a first step, CTS
(arXiv 2306.02095, section 3) patches that share a class. Here how many windows merge follows from
the ratio alone, so that shapes are static; which ones follows from the tokens.
"""

from dataclasses import dataclass
from typing import Any

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
from mmseg_tome.ops.backend import is_dynamo_compiling


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
        stride = (self.stride[0], self.stride[1])
        if is_dynamo_compiling():  # it takes a graph a grid: guards on all that counts are minutes
            hw = (int(hw[0]), int(hw[1]))
        windows = window_map(hw, stride, metric.device)
        if self.ratio == 0 or stride == (1, 1):  # there is no window that could merge
            return identity_map(hw[0] * hw[1], metric.device)
        # Counts of a size that is a symbol, as when a model is traced, are not compared, for to
        # compare is to restrict them: they are numbers that the traced graph computes.
        known = all(isinstance(size, int) for size in hw)
        numbers: tuple[Any, ...] = hw
        if not known:
            numbers = tuple(torch.full((), size, dtype=torch.int64) for size in hw)
        counts = self._merging(numbers)
        if known and not any(counts):
            return identity_map(hw[0] * hw[1], metric.device)
        if known and counts == ops.window_counts(hw, stride):
            return windows
        similarity = ops.window_similarity(metric, hw, stride)  # [B, windows]
        order = windows.order if known else None  # kernels take no tensors for counts
        slot, order = ops.assign_windows(similarity, windows.slot, order, counts, hw, stride)
        num_slots: Any = ops.slots_left(counts, numbers, stride)
        if known:
            return SlotMap(slot, num_slots, order, windows.largest)
        return _AnySizeMap(slot, _symbol(num_slots))

    def num_slots(self, hw: tuple[int, int]) -> int:
        return ops.slots_left(self._merging(hw), hw, (self.stride[0], self.stride[1]))

    def _merging(self, hw: tuple[Any, ...]) -> ops.Counts:
        """How many windows of each shape merge; of a grid in tensors, tensors."""
        there = ops.window_counts(hw, self.stride)
        size = ops.window_sizes(hw, self.stride)
        tokens = hw[0] * hw[1]
        most = tokens - sum(there)
        removed = _least(part_of(tokens, self.ratio), most)
        # Of those that the border cuts the same share, of full ones what then is left to remove.
        # Windows of one token remove nothing; the divisor only has to be positive.
        cut = [count * removed // (most + (most == 0)) for count in there[1:]]
        left = removed - sum(count * (n - 1) for count, n in zip(cut, size[1:], strict=True))
        return ops.Counts(_least(left // max(size.full - 1, 1), there.full), *cut)


def _least(one: Any, other: Any) -> Any:
    return torch.minimum(one, other) if isinstance(one, Tensor) else min(one, other)


class _AnySizeMap(SlotMap):
    """A map of which no tracer knows whether it is the identity: it works as any other does."""

    def is_identity(self) -> bool:
        return False

    def key_bias(self, dtype: torch.dtype) -> Tensor:
        return ops.log_sizes(self.slot, self.num_slots, dtype)


def _symbol(number: Tensor) -> int:
    """A tensor's number as a symbol of which a tracer knows that it is above 1, but no formula.

    A formula of the size would be compared again for every shape that follows: that takes hours.
    There is more than one window, and slot: `window_map` restricts a grid to be larger than one.
    """
    symbol: Any = number.item()
    torch._check(symbol > 1)
    return symbol
