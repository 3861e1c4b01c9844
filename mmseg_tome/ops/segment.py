"""Mean over segments of tokens, and its way back: the two operations on a slot map.

Both address whole rows of a `[B * tokens, C]` view, which is several times faster than
`scatter` and `gather` with an index expanded over the channels, and exports as one
scatter-add, one division and one gather.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SegmentOrder(NamedTuple):
    """The tokens of a slot map sorted by slot, those of a slot in ascending order.

    Attributes:
        tokens: `[B, N]` or `[1, N]`, int32.
        offsets: Where each slot begins in `tokens`, and last N, `[B or 1, M + 1]`, int32.
    """

    tokens: Tensor
    offsets: Tensor


def segment_order(slot: Tensor, num_slots: int) -> SegmentOrder:
    """Sort the tokens of a slot map by slot.

    Args:
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, num_slots)`.
        num_slots: How many slots there are, M.
    """
    tokens = slot.argsort(dim=1, stable=True)
    first = torch.arange(num_slots + 1, device=slot.device).expand(slot.shape[0], -1)
    offsets = torch.searchsorted(slot.gather(1, tokens), first.contiguous())
    return SegmentOrder(tokens.to(torch.int32), offsets.to(torch.int32))


def segment_mean(x: Tensor, slot: Tensor, num_slots: int) -> Tensor:
    """Average the tokens that share a slot.

    Args:
        x: Tokens, `[B, N, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, num_slots)`.
        num_slots: How many slots there are, M. No slot may be empty.

    Returns:
        `[B, M, C]` in the dtype of `x`; sums are taken in float32 at least, so that no
        half-precision slot overflows.
    """
    batch, _, channels = x.shape
    rows = _rows(slot, num_slots, batch)  # [B * N]
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros(batch * num_slots, channels, dtype=wide)
    total.index_add_(0, rows, x.reshape(-1, channels).to(wide))
    count = x.new_zeros(batch * num_slots, dtype=wide)
    count.index_add_(0, rows, torch.ones_like(rows, dtype=wide))
    mean = total / count[:, None]
    return mean.view(batch, num_slots, channels).to(x.dtype)


def gather_segments(y: Tensor, slot: Tensor) -> Tensor:
    """Hand every token its slot's value back, `[B, M, C] -> [B, N, C]`.

    Args:
        y: One row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`.
    """
    batch, num_slots, channels = y.shape
    rows = _rows(slot, num_slots, batch)  # [B * N]
    return y.reshape(-1, channels).index_select(0, rows).view(batch, -1, channels)


def gather_segments_add(y: Tensor, slot: Tensor, residual: Tensor) -> Tensor:
    """Add every token's slot's value to `residual`, `[B, N, C]`; dtypes promote.

    Args:
        y: One row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`.
        residual: What to add to, `[B, N, C]`.
    """
    return residual + gather_segments(y, slot)


def _rows(slot: Tensor, num_slots: int, batch: int) -> Tensor:
    """Row of each token's slot in a `[B * M, C]` view: `[B or 1, N] -> [B * N]`."""
    if batch > 1:
        slot = slot + torch.arange(batch, device=slot.device)[:, None] * num_slots
    return slot.reshape(-1)
