"""No merging."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_tome.merging.grid_cache import cached_per_grid
from mmseg_tome.merging.slot_map import SlotMap
from mmseg_tome.merging.strategies.base import MergingStrategy, register_strategy


@register_strategy("none")
@dataclass(frozen=True)
class Identity(MergingStrategy):
    """Every token keeps a slot of its own."""

    by_grid = True

    def __call__(self, metric: Tensor, hw: tuple[int, int]) -> SlotMap:
        return identity_map(hw[0] * hw[1], metric.device)

    def num_slots(self, hw: tuple[int, int]) -> int:
        return hw[0] * hw[1]


@cached_per_grid
def identity_map(tokens: int, device: torch.device) -> SlotMap:
    """The map that merges nothing, for `tokens` tokens."""
    return SlotMap(torch.arange(tokens, device=device)[None], tokens)
