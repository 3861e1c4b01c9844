"""Neighbour merging: pool the tokens of fixed windows (SegFormer++, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_tome import ops
from mmseg_tome.merging.grid_cache import cached_per_grid
from mmseg_tome.merging.slot_map import SlotMap
from mmseg_tome.merging.strategies.base import MergingStrategy, check_stride, register_strategy


@register_strategy("n2d")
@dataclass(frozen=True)
class NeighbourMerging2D(MergingStrategy):
    """Average windows of the grid; windows at the bottom and right edges may be smaller.

    Unmerging lets a token read its own window. The authors' nearest interpolation does the same
    wherever the stride is 2 or divides the grid; elsewhere it can read the window beside.

    Attributes:
        stride: Size `(sy, sx)` of a window in tokens.
    """

    by_grid = True
    stride: tuple[int, int] = (2, 2)

    def __post_init__(self):
        check_stride(self.stride)

    def __call__(self, metric: Tensor, hw: tuple[int, int]) -> SlotMap:
        return window_map(hw, tuple(self.stride), metric.device)

    def num_slots(self, hw: tuple[int, int]) -> int:
        rows, cols = ((size + step - 1) // step for size, step in zip(hw, self.stride, strict=True))
        return rows * cols


@register_strategy("n1d")
@dataclass(frozen=True)
class NeighbourMerging1D(MergingStrategy):
    """Average runs of tokens in raster order; runs pass over the ends of rows.

    Attributes:
        stride: Length of a run in tokens.
    """

    by_grid = True
    stride: int = 2

    def __post_init__(self):
        if type(self.stride) is not int or self.stride < 1:
            raise ValueError(f"stride must be a positive integer, got {self.stride!r}")

    def __call__(self, metric: Tensor, hw: tuple[int, int]) -> SlotMap:
        # A run is a window of a grid that has a single row.
        return window_map((1, hw[0] * hw[1]), (1, self.stride), metric.device)

    def num_slots(self, hw: tuple[int, int]) -> int:
        return (hw[0] * hw[1] + self.stride - 1) // self.stride


@cached_per_grid
def window_map(hw: tuple[int, int], stride: tuple[int, int], device: torch.device) -> SlotMap:
    """The map of each token to the window that holds it, windows in raster order."""
    (height, width), (sy, sx) = hw, stride
    row = torch.arange(height, device=device) // sy  # [H]
    col = torch.arange(width, device=device) // sx  # [W]
    windows_per_row = (width + sx - 1) // sx
    slot = (row[:, None] * windows_per_row + col).reshape(1, -1)  # [1, H * W]
    num_slots = (height + sy - 1) // sy * windows_per_row
    largest = min(sy, height) * min(sx, width)
    order = ops.segment_order(slot, num_slots, largest)
    return SlotMap(slot, num_slots, order, largest, (hw, stride))
