"""The slot map: the one thing a merging strategy produces and everything else works on."""

from typing import NamedTuple

import torch
from torch import Tensor

from mmseg_tome import ops


class SlotMap(NamedTuple):
    """Which merged token every token of a grid goes to.

    Attributes:
        slot: Slot of each token, int64 in `[0, num_slots)`, `[B, N]`, or `[1, N]` where all
            samples share it. Every slot is used. A map with as many slots as tokens is the
            identity: `slot[b, n] == n`.
        num_slots: Number of merged tokens M. A Python integer that depends on the grid alone,
            never on the data, so that shapes stay static.
        order: What `ops.segment_order` gives for the map, so that merging again, or backwards,
            does not sort again. None is always right.
        largest: The most tokens that a slot can hold, where that is known. A map that has `largest`
            of them in every slot is even.
        windows: Where slots are the windows of a grid, in raster order: the grid `(H, W)` and the
            size `(sy, sx)` of a window.
    """

    slot: Tensor
    num_slots: int
    order: ops.SegmentOrder | None = None
    largest: int | None = None
    windows: tuple[tuple[int, int], tuple[int, int]] | None = None

    def is_identity(self) -> bool:
        """Whether every token has its own slot; False where that is unknown."""
        return self.num_slots == self.slot.shape[1]

    def merge(self, x: Tensor) -> Tensor:
        """Average the tokens of each slot, `[B, N, C] -> [B, M, C]`.

        Raises:
            ValueError: `x` does not have the N tokens of this map.
        """
        tokens = self.slot.shape[1]
        if x.shape[1] != tokens:
            raise ValueError(f"this slot map is of {tokens} tokens, the input has {x.shape[1]}")
        if self.is_identity():
            return x
        return ops.segment_mean(x, self.slot, self.num_slots, self.order, self.windows)

    def unmerge(self, y: Tensor) -> Tensor:
        """Let each token read its slot back, `[B, M, C] -> [B, N, C]`.

        Raises:
            ValueError: `y` does not have one row per slot.
        """
        self._check_rows(y)
        return y if self.is_identity() else ops.gather_segments(y, self.slot, self.order)

    def unmerge_add(self, y: Tensor, residual: Tensor) -> Tensor:
        """`residual + unmerge(y)` in one step, `[B, M, C]` and `[B, N, C]` -> `[B, N, C]`.

        Raises:
            ValueError: `y` does not have one row per slot.
        """
        self._check_rows(y)
        if self.is_identity():
            return residual + y
        return ops.gather_segments_add(y, self.slot, residual, self.order)

    def sizes(self) -> Tensor:
        """How many tokens share each slot, `[B or 1, M]`, float32."""
        return ops.sizes(self.slot, self.num_slots, torch.float32)

    def key_bias(self, dtype: torch.dtype) -> Tensor | None:
        """Bias of attention logits for proportional attention (ToMe, arXiv 2210.09461, sec. 3.2).

        The log of the number of tokens per key: merging equal keys then changes nothing.

        Returns:
            `[B or 1, 1, 1, M]` in `dtype`, for any heads and queries; None if all keys
            have the same number of tokens: softmax is invariant to a constant.
        """
        tokens = self.slot.shape[1]
        if tokens in (self.num_slots, self.num_slots * (self.largest or 0)):
            return None
        return ops.log_sizes(self.slot, self.num_slots, dtype, self.order)

    def _check_rows(self, y: Tensor) -> None:
        if y.shape[1] != self.num_slots:
            raise ValueError(f"this slot map has {self.num_slots} slots, the input {y.shape[1]}")
