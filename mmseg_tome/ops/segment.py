"""Mean over segments of tokens, and its way back: the two operations on a slot map.

Both address whole rows of a `[B * tokens, C]` view, which is several times faster than
`scatter` and `gather` with an index expanded over the channels, and exports as one
scatter-add, one division and one gather.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmseg_tome.ops.twins import replaceable


class SegmentOrder(NamedTuple):
    """The tokens of a slot map sorted by slot, those of a slot in ascending order.

    Attributes:
        tokens: `[B, N]`, or `[1, N]` where all samples share it, int32.
        offsets: Where each slot begins in `tokens`, and last N, `[B or 1, M + 1]`, int32.
        largest: The most tokens that a slot can have, N where nothing is known.
    """

    tokens: Tensor
    offsets: Tensor
    largest: int


def segment_order(slot: Tensor, num_slots: int, largest: int | None = None) -> SegmentOrder:
    """Sort the tokens of a slot map by slot.

    Args:
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, num_slots)`.
        num_slots: How many slots there are, M.
        largest: The most tokens that a slot has, if known.
    """
    tokens = slot.argsort(dim=1, stable=True)
    first = torch.arange(num_slots + 1, device=slot.device).expand(slot.shape[0], -1)
    offsets = torch.searchsorted(slot.gather(1, tokens), first.contiguous())
    return SegmentOrder(tokens.to(torch.int32), offsets.to(torch.int32), largest or slot.shape[1])


@replaceable
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
    return reduce(x, slot, num_slots, mean=True)


def reduce(x: Tensor, slot: Tensor, num_slots: int, mean: bool) -> Tensor:
    """Sum, or average, the tokens of each slot, `[B, N, C] -> [B, M, C]`, see `segment_mean`."""
    batch, _, channels = x.shape
    index = rows(slot, num_slots, batch)  # [B * N]
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros(batch * num_slots, channels, dtype=wide)
    total.index_add_(0, index, x.reshape(-1, channels).to(wide))
    if mean:
        total = total / _count(index, batch * num_slots, wide)
    return total.view(batch, num_slots, channels).to(x.dtype)


def expand(y: Tensor, slot: Tensor, mean: bool) -> Tensor:
    """The gradient of `reduce`: each token gets its slot's value, with `mean` its share of it."""
    if mean:
        batch, num_slots, _ = y.shape
        wide = torch.promote_types(y.dtype, torch.float32)
        count = _count(rows(slot, num_slots, batch), batch * num_slots, wide)
        y = (y / count.view(batch, num_slots, 1)).to(y.dtype)
    return gather_segments(y, slot)


def gather_segments(y: Tensor, slot: Tensor) -> Tensor:
    """Hand every token its slot's value back, `[B, M, C] -> [B, N, C]`.

    Args:
        y: One row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`.
    """
    batch, num_slots, channels = y.shape
    index = rows(slot, num_slots, batch)  # [B * N]
    return y.reshape(-1, channels).index_select(0, index).view(batch, -1, channels)


def gather_segments_add(y: Tensor, slot: Tensor, residual: Tensor) -> Tensor:
    """Add every token's slot's value to `residual`, `[B, N, C]`; dtypes promote.

    Args:
        y: One row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`.
        residual: What to add to, `[B, N, C]`.
    """
    return residual + gather_segments(y, slot)


def sizes(slot: Tensor, num_slots: int, dtype: torch.dtype) -> Tensor:
    """How many tokens share each slot, `[B or 1, M]`; arguments as of `log_sizes`."""
    zeros = slot.new_zeros(slot.shape[0], num_slots, dtype=dtype)
    return zeros.scatter_add(1, slot, torch.ones_like(slot, dtype=dtype))


def log_sizes(slot: Tensor, num_slots: int, dtype: torch.dtype) -> Tensor:
    """The logarithm of the number of tokens in each slot, as a bias of attention.

    Args:
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, num_slots)`.
        num_slots: How many slots there are, M.
        dtype: Of the result; the logarithm is taken in float32 at least.

    Returns:
        `[B or 1, 1, 1, M]`, for any heads and queries.
    """
    wide = torch.promote_types(dtype, torch.float32)
    return sizes(slot, num_slots, wide).log().to(dtype)[:, None, None]


def _count(index: Tensor, num_rows: int, dtype: torch.dtype) -> Tensor:
    """How many tokens each row of `rows` has, `[num_rows, 1]`."""
    ones = torch.ones_like(index, dtype=dtype)
    return ones.new_zeros(num_rows).index_add(0, index, ones)[:, None]


@replaceable
def rows(slot: Tensor, num_slots: int, batch: int) -> Tensor:
    """Row of each token's slot in a `[B * M, C]` view: `[B or 1, N] -> [B * N]`."""
    if torch.jit.is_tracing() or batch > 1:  # a trace may run on another batch
        slot = slot + torch.arange(batch, device=slot.device)[:, None] * num_slots
    return slot.reshape(-1)
