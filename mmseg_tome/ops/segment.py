"""Mean over segments of tokens, and its way back: the operations on a slot map.

In torch both address whole rows of a `[B * tokens, C]` view, which is several times faster than
`scatter` and `gather` with an index expanded over the channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.backend import current_export, use_triton
from mmseg_tome.ops.shapes import check_map, check_order, check_sum


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


NO_ORDER = None, None, None


def segment_order(slot: Tensor, num_slots: int, largest: int | None = None) -> SegmentOrder | None:
    """Sort the tokens of a slot map by slot: what its merging can reuse.

    None where no kernel runs: torch does without. `segment_mean` and the gradient of
    `gather_segments` compute it where it is not given: worth keeping for a map used twice.

    Args:
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, num_slots)`.
        num_slots: How many slots there are, M.
        largest: The most tokens that a slot has, if known.
    """
    if not use_triton(slot):
        return None
    from mmseg_tome.ops import segment_triton

    tokens, offsets = segment_triton.segment_order(slot, num_slots)
    return SegmentOrder(tokens, offsets, largest or slot.shape[1])


def segment_mean(
    x: Tensor,
    slot: Tensor,
    num_slots: int,
    order: SegmentOrder | None = None,
    windows: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Tensor:
    """Average the tokens that share a slot.

    Args:
        x: Tokens, `[B, N, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, num_slots)`.
        num_slots: How many slots there are, M. No slot may be empty.
        order: `segment_order(slot, num_slots)`, where it is at hand.
        windows: Where slots are the windows of a grid, in raster order: `(H, W)` and `(sy, sx)`.

    Returns:
        `[B, M, C]` in the dtype of `x`; sums are taken in float32 at least, so that no
        half-precision slot overflows.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_map(slot, x)
    if order is not None:
        check_order(order, slot, num_slots)
    if use_triton(x):
        from mmseg_tome.ops import segment_triton

        order = order or segment_order(slot, num_slots)
        return segment_triton.reduce(x, slot, *(order or NO_ORDER), True)
    export = current_export()
    if export is None or not export.onnx:
        return segment_mean_torch(x, slot, num_slots)
    if windows is None or export.any_size:  # a pooling is made for one size
        mean = segment_mean_executorch if export.executorch else segment_mean_onnx
        return mean(x, slot, num_slots)
    hw, stride = windows
    grid = x.transpose(1, 2).unflatten(2, hw)  # [B, C, H, W]
    # Windows at the edges may be smaller; where none is, more runtimes have the operator.
    cut = hw[0] % stride[0] or hw[1] % stride[1]
    options = dict(ceil_mode=bool(cut), count_include_pad=False)
    return F.avg_pool2d(grid, stride, **options).flatten(2).transpose(1, 2)


def gather_segments(y: Tensor, slot: Tensor, order: SegmentOrder | None = None) -> Tensor:
    """Hand every token its slot's value back, `[B, M, C] -> [B, N, C]`.

    Args:
        y: One row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`.
        order: `segment_order(slot, M)`, where it is at hand; only the gradient needs it.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_map(slot, y, tokens=False, order=order)
    if not use_triton(y):
        return gather_segments_torch(y, slot)
    from mmseg_tome.ops import segment_triton

    return segment_triton.expand(y, slot, *(order or NO_ORDER), None, False)


def gather_segments_add(
    y: Tensor, slot: Tensor, residual: Tensor, order: SegmentOrder | None = None
) -> Tensor:
    """`residual + gather_segments(y, slot)` in one step; dtypes promote as in a sum.

    Args:
        y: As `slot` and `order`, see `gather_segments`.
        slot: Slot of each token.
        residual: What to add to, `[B, N, C]`.
        order: Only the gradient needs it.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_sum(residual, y, slot, order)
    if not use_triton(y, residual):
        return residual + gather_segments_torch(y, slot)
    from mmseg_tome.ops import segment_triton

    return segment_triton.expand(y, slot, *(order or NO_ORDER), residual, False)


def log_sizes(
    slot: Tensor, num_slots: int, dtype: torch.dtype, order: SegmentOrder | None = None
) -> Tensor:
    """The logarithm of the number of tokens in each slot, as a bias of attention.

    Args:
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, num_slots)`.
        num_slots: How many slots there are, M.
        dtype: Of the result; the logarithm is taken in float32 at least.
        order: `segment_order(slot, num_slots)`, where it is at hand; the kernel needs it.

    Returns:
        `[B or 1, 1, 1, M]`, for any heads and queries.

    Raises:
        ValueError: The order is not that of the map.
    """
    if order is None or not use_triton(slot):
        return log_sizes_torch(slot, num_slots, dtype)
    check_order(order, slot, num_slots)
    from mmseg_tome.ops import segment_triton

    return segment_triton.log_sizes(order.offsets, dtype)[:, None, None, :num_slots]


def sizes(slot: Tensor, num_slots: int, dtype: torch.dtype) -> Tensor:
    """How many tokens share each slot, `[B or 1, M]`; arguments as of `log_sizes`."""
    zeros = torch.zeros(slot.shape[0], num_slots, dtype=dtype, device=slot.device)
    return zeros.scatter_add(1, slot, torch.ones_like(slot, dtype=dtype))


def segment_order_torch(slot: Tensor, num_slots: int, largest: int | None = None) -> SegmentOrder:
    """`segment_order` in torch."""
    tokens = slot.argsort(dim=1, stable=True)
    first = torch.arange(num_slots + 1, device=slot.device).expand(slot.shape[0], -1)
    offsets = torch.searchsorted(slot.gather(1, tokens), first.contiguous())
    return SegmentOrder(tokens.to(torch.int32), offsets.to(torch.int32), largest or slot.shape[1])


def segment_mean_torch(x: Tensor, slot: Tensor, num_slots: int) -> Tensor:
    """`segment_mean` in torch."""
    batch, _, channels = x.shape
    index = rows(slot, num_slots, batch)  # [B * N]
    wide = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros(batch * num_slots, channels, dtype=wide)
    total.index_add_(0, index, x.reshape(-1, channels).to(wide))
    ones = torch.ones_like(index, dtype=wide)
    total = total / ones.new_zeros(batch * num_slots).index_add(0, index, ones)[:, None]
    return total.view(batch, num_slots, channels).to(x.dtype)


def segment_mean_onnx(x: Tensor, slot: Tensor, num_slots: int) -> Tensor:
    """`segment_mean` by ScatterElements, which adds one token after the other.

    ScatterND, which takes whole rows, looks faster, but ONNX Runtime lets several threads add to
    one row at a time there and loses sums (its issues 18048 and 23396; seen with 1.32 as well).
    """
    batch, _, channels = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    index = slot[:, :, None].expand(batch, -1, channels)
    total = torch.zeros(batch, num_slots, channels, dtype=wide, device=x.device)
    total = total.scatter_add(1, index, x.to(wide))
    return (total / sizes(slot, num_slots, wide)[:, :, None]).to(x.dtype)


def segment_mean_executorch(x: Tensor, slot: Tensor, num_slots: int) -> Tensor:
    """`segment_mean_onnx` channel by channel.

    ExecuTorch's kernels take the slots of a channel, copied in one piece, and two dimensions in
    half the time of those of a token, repeated one by one.
    """
    batch, _, channels = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    index = slot[:, None].repeat(batch // slot.shape[0], channels, 1).flatten(0, 1)  # [B * C, N]
    total = torch.zeros(batch * channels, num_slots, dtype=wide, device=x.device)
    total = total.scatter_add(1, index, x.transpose(1, 2).flatten(0, 1).to(wide))
    total = total.unflatten(0, (batch, channels)).transpose(1, 2)  # [B, M, C]
    return (total / sizes(slot, num_slots, wide)[:, :, None]).to(x.dtype)


def gather_segments_torch(y: Tensor, slot: Tensor) -> Tensor:
    """`gather_segments` in torch."""
    batch, num_slots, channels = y.shape
    index = rows(slot, num_slots, batch)  # [B * N]
    return y.reshape(-1, channels).index_select(0, index).view(batch, -1, channels)


def log_sizes_torch(slot: Tensor, num_slots: int, dtype: torch.dtype) -> Tensor:
    """`log_sizes` in torch."""
    wide = torch.promote_types(dtype, torch.float32)
    return sizes(slot, num_slots, wide).log().to(dtype)[:, None, None]


def rows(slot: Tensor, num_slots: int, batch: int) -> Tensor:
    """Row of each token's slot in a `[B * M, C]` view: `[B or 1, N] -> [B * N]`."""
    # What is traced may run on another batch.
    if current_export() is not None or torch.jit.is_tracing() or batch > 1:
        slot = slot + torch.arange(batch, device=slot.device)[:, None] * num_slots
    return slot.reshape(-1)
