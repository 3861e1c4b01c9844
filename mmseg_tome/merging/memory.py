"""Slot maps that are kept from one frame of a video to the next."""

from collections.abc import Hashable

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from mmseg_tome.merging.slot_map import SlotMap
from mmseg_tome.merging.strategies.base import MergingStrategy


class SlotMemory:
    """What the mergers of a model found in a frame.

    Maps stay where they are in memory, so that one CUDA graph can write what another one reads.

    Attributes:
        keeping: Whether anything is remembered at all.
        matching: Whether mergers look for slots, and remember them, or take what is remembered.
        number: Of the backbone's pass within a frame, of which sliding windows take several.
    """

    def __init__(self):
        self.keeping = True
        self.matching = True
        self.number = 0
        self._kept: dict[Hashable, SlotMap] = {}

    # What one graph writes and another reads is no inference tensor, whatever mode a frame runs in.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _keep(self, key: Hashable, found: SlotMap) -> None:
        if key in self._kept:
            for old, new in zip(*map(_tensors, (self._kept[key], found)), strict=True):
                old.copy_(new)
        else:
            self._kept[key] = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, found)

    def slots(
        self, strategy: MergingStrategy, place: Hashable, metric: Tensor, hw: tuple[int, int]
    ) -> SlotMap:
        """The slot map of a merger's tokens.

        Args:
            strategy: Finds it, where it is not to be remembered or is not.
            place: Tells the merger from all others.
            metric: Tokens, `[B, H * W, C]`.
            hw: Their grid.
        """
        if not self.keeping:
            return strategy(metric, hw)
        key = (place, strategy, self.number, metric.shape[0], hw, metric.device)
        if not self.matching and key in self._kept:
            return self._kept[key]
        found = strategy(metric, hw)
        self._keep(key, found)
        return found


def _tensors(slots: SlotMap) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(slots)[0] if isinstance(leaf, Tensor)]
