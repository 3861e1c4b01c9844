"""The operations on slot maps as Triton kernels: sort, reduce and expand.

Sums over slots are taken in a fixed order and without atomics, so every run gives the same bits.
For that the tokens are first sorted by slot. Nearly all slots of a bipartite map have one token,
a few have many, and a destination in a flat part of an image can have thousands; to share that
work out, runs of TILE tokens that lie wholly in one slot are summed beforehand, by programs of
their own, and then count as one.

`reduce` and `expand` are each other's gradient, the sums and the means alike.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2
from mmseg_tome.ops.library import is_opaque, operator

TILE = 32
"""Tokens of a run that is summed beforehand."""
TILE_WARPS = 4
REDUCE_BLOCKS = 4, 4, 64, 1
"""BLOCK_M, ROWS, BLOCK_C and warps of the sums over slots."""
LIST_BLOCK, LIST_WARPS = 4096, 8
"""Tokens that a program looks for its slots in at a time."""
SORT_M, SORT_STEP, SORT_WARPS = 16, 256, 4
"""Slots that a program sorts the tokens of, and tokens that it sorts at a time."""
ALIGNMENT = 8
"""Elements at whose multiples the rows of a bias of attention begin."""
SIZES_BLOCK = 512
"""Slots whose sizes a program takes the logarithm of."""
BLOCK_C = 64
"""Channels of a program: rows are read in pieces of 128 bytes, or 256 in float32."""


def order_like(slot: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
    """Empty tensors for the order of a slot map."""
    offsets = slot.new_empty(slot.shape[0], num_slots + 1, dtype=torch.int32)
    return slot.new_empty(slot.shape, dtype=torch.int32), offsets


@operator("segment_order(Tensor slot, SymInt num_slots) -> (Tensor, Tensor)", order_like)
def segment_order(slot: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
    """See `mmseg_tome.ops.segment.segment_order`.

    A counting sort in two launches. In the first, a program owns a block of slots and reads the
    sample's whole map twice, to count the tokens of the slots before its own and to list its own:
    2 * 8 N bytes, from L2, for each of M / list_m programs. In the second, a program sorts the
    part of a list that belongs to SORT_M slots.
    """
    slot = slot.contiguous()
    batch, num_tokens = slot.shape
    # Fewer programs for long maps, as each of them reads all of it.
    list_m = SORT_M if num_tokens <= 16384 else 4 * SORT_M
    lists = ceil_div(num_slots, list_m)
    block_n = min(next_power_of_2(num_tokens), LIST_BLOCK)
    tokens, offsets = order_like(slot, num_slots)
    listed = torch.empty_like(tokens)
    begins = slot.new_empty(batch, lists + 1, dtype=torch.int32)
    launch(
        _list_kernel, (lists, batch), slot, listed, begins, num_tokens,
        BLOCK_N=block_n, LIST_M=list_m, num_warps=LIST_WARPS if block_n > 1024 else 4,
    )  # fmt: skip
    launch(
        _sort_kernel, (ceil_div(num_slots, SORT_M), batch), slot, listed, begins, tokens, offsets,
        num_tokens, num_slots, lists,
        STEP=SORT_STEP, LIST_M=list_m, SORT_M=SORT_M, num_warps=SORT_WARPS,
    )  # fmt: skip
    return tokens, offsets


@operator(
    "reduce(Tensor x, Tensor slot, Tensor tokens, Tensor offsets, SymInt largest, bool mean)"
    " -> Tensor",
    lambda x, slot, tokens, offsets, *_: x.new_empty(x.shape[0], offsets.shape[1] - 1, x.shape[2]),
)
def reduce(x, slot, tokens, offsets, largest, mean):
    """Sum, or average, the tokens of each slot in float32, `[B, N, C] -> [B, M, C]`.

    Reads B N C elements and writes B M C, one addition for each element read.

    Args:
        x: `[B, N, C]`, float32, float16 or bfloat16.
        slot: `[B, N]` or `[1, N]`, int64.
        tokens: The map's tokens sorted by slot, from `segment_order`.
        offsets: Where each slot's tokens begin among them, likewise.
        largest: The most tokens that a slot has; a slot of fewer than TILE has no tile to itself.
        mean: Whether to divide by the number of tokens.
    """
    x, slot = x.contiguous(), slot.contiguous()
    batch, num_tokens, channels = x.shape
    num_slots = offsets.shape[1] - 1
    token_stride = 0 if tokens.shape[0] == 1 else num_tokens
    num_tiles = num_tokens // TILE if largest >= TILE else 0
    tile_sums = x.new_empty(batch, max(num_tiles, 1), channels, dtype=torch.float32)
    out = x.new_empty(batch, num_slots, channels)
    block_c = min(next_power_of_2(channels), BLOCK_C)
    blocks_c = ceil_div(channels, block_c)
    if num_tiles:
        launch(
            _tile_kernel, (num_tiles, blocks_c, batch), x, slot, tokens, tile_sums, num_tokens,
            num_tiles, channels, 0 if slot.shape[0] == 1 else num_tokens, token_stride,
            TILE=TILE, BLOCK_C=block_c, num_warps=TILE_WARPS,
        )  # fmt: skip
    block_m, rows, block_c, warps = REDUCE_BLOCKS
    block_c = min(next_power_of_2(channels), block_c)
    blocks_c = ceil_div(channels, block_c)
    launch(
        _reduce_kernel, (ceil_div(num_slots, block_m), blocks_c, batch), x, tokens, offsets,
        tile_sums, out, num_tokens, num_slots, num_tiles, channels, token_stride,
        0 if offsets.shape[0] == 1 else num_slots + 1,
        MEAN=mean, TILE=TILE, BLOCK_M=block_m, ROWS=rows, BLOCK_C=block_c, num_warps=warps,
    )  # fmt: skip
    return out


def _expanded(y, slot, tokens, offsets, largest, residual, mean):
    dtype = y.dtype if residual is None else torch.promote_types(y.dtype, residual.dtype)
    return y.new_empty(y.shape[0], slot.shape[1], y.shape[2], dtype=dtype)


@operator(
    "expand(Tensor y, Tensor slot, Tensor? tokens, Tensor? offsets, SymInt? largest,"
    " Tensor? residual, bool mean) -> Tensor",
    _expanded,
)
def expand(y, slot, tokens, offsets, largest, residual, mean):
    """Hand each token its slot's value, `[B, M, C] -> [B, N, C]`, and add `residual` if given.

    Reads B M C elements of `y`, again and again but from L2, and B N C of the residual; writes
    B N C.

    Args:
        y: `[B, M, C]`, float32, float16 or bfloat16.
        slot: `[B, N]` or `[1, N]`, int64.
        tokens: From `segment_order`, as what follows; only the gradient needs it.
        offsets: Needed for means, too.
        largest: Likewise, for the gradient.
        residual: `[B, N, C]`, of any dtype; the output has the promoted dtype of both.
        mean: Whether to divide by the number of the slot's tokens.
    """
    y, slot = y.contiguous(), slot.contiguous()
    batch, num_slots, channels = y.shape
    num_tokens = slot.shape[1]
    residual = None if residual is None else residual.contiguous()
    out = _expanded(y, slot, tokens, offsets, largest, residual, mean)
    shared = slot.shape[0] == 1
    block_c = min(next_power_of_2(channels), BLOCK_C)
    block_n = 4096 // block_c
    launch(
        _expand_kernel, (ceil_div(num_tokens, block_n), ceil_div(channels, block_c), batch), y,
        slot, offsets, residual, out, num_tokens, num_slots, channels, 0 if shared else num_tokens,
        0 if shared else num_slots + 1,
        MEAN=mean, ADD=residual is not None, BLOCK_N=block_n, BLOCK_C=block_c,
    )  # fmt: skip
    return out


# `reduce` and `expand` are linear, and each other's gradient, so to any order; a transform of
# `torch.func` needs torch's operations.


def _save_for_expand(ctx, inputs, output):
    _, slot, tokens, offsets, ctx.largest, ctx.mean = inputs
    ctx.save_for_backward(slot, tokens, offsets)


def _reduce_gradient(ctx, grad):
    slot, tokens, offsets = ctx.saved_tensors
    if is_opaque(grad):
        grad_x = _expand_by_torch(grad, slot, ctx.mean)
    else:
        grad_x = expand(grad, slot, tokens, offsets, ctx.largest, None, ctx.mean)
    return grad_x, None, None, None, None, None


def _save_for_reduce(ctx, inputs, output):
    y, slot, tokens, offsets, ctx.largest, residual, ctx.mean = inputs
    ctx.num_slots, ctx.dtype = y.shape[1], y.dtype
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.save_for_backward(slot, tokens, offsets)


def _expand_gradient(ctx, grad):
    grad_y = grad_residual = None
    if ctx.needs_input_grad[0]:
        slot, tokens, offsets = ctx.saved_tensors
        order = tokens, offsets, ctx.largest
        grad_y = reduce_by(grad, slot, *order, ctx.num_slots, ctx.mean).to(ctx.dtype)
    if ctx.needs_input_grad[5]:
        grad_residual = grad.to(ctx.residual_dtype)
    return grad_y, None, None, None, None, grad_residual, None


reduce.set_gradient(_reduce_gradient, _save_for_expand)
expand.set_gradient(_expand_gradient, _save_for_reduce)


def reduce_by(grad, slot, tokens, offsets, largest, num_slots, mean):
    """`reduce` for gradients: with or without the map's order, in a transform, too."""
    if is_opaque(grad):
        index = slot[:, :, None].expand_as(grad)
        total = grad.new_zeros(grad.shape[0], num_slots, grad.shape[2], dtype=torch.float32)
        total = total.scatter_add(1, index, grad.float())
        return (total / _sizes(slot, num_slots) if mean else total).to(grad.dtype)
    if tokens is None:
        (tokens, offsets), largest = segment_order(slot, num_slots), slot.shape[1]
    return reduce(grad, slot, tokens, offsets, largest, mean)


def _expand_by_torch(y, slot, mean):
    if mean:
        y = (y / _sizes(slot, y.shape[1])).to(y.dtype)
    return y.gather(1, slot[:, :, None].expand(y.shape[0], -1, y.shape[2]))


def _sizes(slot, num_slots):
    """How many tokens each slot has, `[B or 1, M, 1]`, float32."""
    ones = torch.ones_like(slot, dtype=torch.float32)
    return ones.new_zeros(slot.shape[0], num_slots).scatter_add(1, slot, ones)[:, :, None]


def _log_sizes_shape(offsets, dtype):
    pitch = ceil_div(offsets.shape[1] - 1, ALIGNMENT) * ALIGNMENT
    return offsets.new_empty(offsets.shape[0], pitch, dtype=dtype)


@operator("log_sizes(Tensor offsets, ScalarType dtype) -> Tensor", _log_sizes_shape)
def log_sizes(offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """See `mmseg_tome.ops.segment.log_sizes`.

    Args:
        offsets: Where each slot's tokens begin, `[B or 1, M + 1]`.
        dtype: Of the result.

    Returns:
        `[B or 1, P]`, P being M rounded up to `ALIGNMENT`: torch's attention copies a bias whose
        rows begin elsewhere. What lies behind the slots is 0.
    """
    offsets = offsets.contiguous()
    num_slots, out = offsets.shape[1] - 1, _log_sizes_shape(offsets, dtype)
    maps, pitch = out.shape
    grid = (ceil_div(pitch, SIZES_BLOCK), maps)
    launch(_log_sizes_kernel, grid, offsets, out, num_slots, pitch, BLOCK=SIZES_BLOCK, num_warps=4)
    return out


@triton.jit
def _log_sizes_kernel(offsets, out, num_slots, pitch, BLOCK: tl.constexpr):
    b = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = m < num_slots
    at = offsets + b * (num_slots + 1) + m
    size = tl.load(at + 1, mask=there, other=1) - tl.load(at, mask=there, other=0)
    value = tl.log(size.to(tl.float32)).to(out.dtype.element_ty)
    tl.store(out + b * pitch + m, value, mask=m < pitch)


@triton.jit
def _list_kernel(slot, listed, begins, num_tokens, BLOCK_N: tl.constexpr, LIST_M: tl.constexpr):
    """List the tokens of LIST_M slots in ascending order, after those of the slots before."""
    b = tl.program_id(1).to(tl.int64)
    slot += b * num_tokens
    listed += b * num_tokens
    begins += b * (tl.num_programs(0) + 1) + tl.program_id(0)
    first = tl.program_id(0) * LIST_M
    before = tl.zeros((BLOCK_N,), tl.int32)
    for start in range(0, num_tokens, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        s = tl.load(slot + n, mask=n < num_tokens, other=0x7FFFFFFF).to(tl.int32)
        before += (s < first).to(tl.int32)
    begin = tl.sum(before, 0)
    tl.store(begins, begin)
    for start in range(0, num_tokens, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        s = tl.load(slot + n, mask=n < num_tokens, other=-1).to(tl.int32)
        mine = (s >= first) & (s < first + LIST_M)
        place = begin + tl.cumsum(mine.to(tl.int32), 0) - 1
        tl.store(listed + place, n, mask=mine)
        begin += tl.sum(mine.to(tl.int32), 0)
    if tl.program_id(0) == tl.num_programs(0) - 1:
        tl.store(begins + 1, begin)


@triton.jit
def _sort_kernel(
    slot, listed, begins, tokens, offsets, num_tokens, num_slots, lists,
    STEP: tl.constexpr, LIST_M: tl.constexpr, SORT_M: tl.constexpr,
):  # fmt: skip
    """Sort the tokens of SORT_M slots: count each slot's, then place them one after another."""
    b = tl.program_id(1).to(tl.int64)
    slot += b * num_tokens
    listed += b * num_tokens
    tokens += b * num_tokens
    offsets += b * (num_slots + 1)
    first = tl.program_id(0) * SORT_M
    begins += b * (lists + 1) + first // LIST_M
    begin = tl.load(begins)
    end = tl.load(begins + 1)
    m = tl.arange(0, SORT_M)

    length = tl.zeros((SORT_M,), tl.int32)
    before = tl.zeros((STEP,), tl.int32)
    for start in range(begin, end, STEP):
        i = start + tl.arange(0, STEP)
        n = tl.load(listed + i, mask=i < end, other=0)
        s = tl.load(slot + n, mask=i < end, other=0x7FFFFFFF).to(tl.int32) - first
        before += (s < 0).to(tl.int32)
        length += tl.sum((s[:, None] == m[None, :]).to(tl.int32), 0)  # [STEP, SORT_M]
    place = begin + tl.sum(before, 0) + tl.cumsum(length, 0) - length  # [SORT_M]
    tl.store(offsets + first + m, place, mask=first + m < num_slots)
    if first + SORT_M >= num_slots:
        tl.store(offsets + num_slots, num_tokens)
    for start in range(begin, end, STEP):
        i = start + tl.arange(0, STEP)
        n = tl.load(listed + i, mask=i < end, other=0)
        s = tl.load(slot + n, mask=i < end, other=0x7FFFFFFF).to(tl.int32) - first
        member = (s[:, None] == m[None, :]).to(tl.int32)  # [STEP, SORT_M]
        nth = place[None, :] + tl.cumsum(member, 0) - 1
        tl.store(tokens + tl.sum(member * nth, 1), n, mask=(s >= 0) & (s < SORT_M))
        place += tl.sum(member, 0)


@triton.jit
def _tile_kernel(
    x, slot, tokens, tile_sums, num_tokens, num_tiles, channels, map_stride, token_stride,
    TILE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum the rows of a tile of sorted tokens, if all of them are in one slot."""
    tile = tl.program_id(0)
    b = tl.program_id(2).to(tl.int64)
    slot += b * map_stride
    tokens += b * token_stride + tile * TILE
    first = tl.load(slot + tl.load(tokens))
    last = tl.load(slot + tl.load(tokens + TILE - 1))
    if first == last:
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        row = b * num_tokens + tl.load(tokens + tl.arange(0, TILE))  # [TILE], int64
        used = (c < channels)[None, :]
        rows = tl.load(x + row[:, None] * channels + c[None, :], mask=used, other=0.0)
        total = tl.sum(rows.to(tl.float32), 0)
        tl.store(tile_sums + (b * num_tiles + tile) * channels + c, total, mask=c < channels)


@triton.jit
def _reduce_kernel(
    x, tokens, offsets, tile_sums, out, num_tokens, num_slots, num_tiles, channels, token_stride,
    offset_stride,
    MEAN: tl.constexpr, TILE: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum the rows of BLOCK_M slots, ROWS of each at a time: loose tokens, then whole tiles."""
    b = tl.program_id(2).to(tl.int64)
    tokens += b * token_stride
    offsets += b * offset_stride
    x += b * num_tokens * channels
    tile_sums += b * num_tiles * channels
    out += b * num_slots * channels
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    used = (c < channels)[None, :]
    # Row p holds every ROWS-th row of slot p // ROWS, from p % ROWS on.
    p = tl.arange(0, BLOCK_M * ROWS)
    m = tl.program_id(0) * BLOCK_M + p // ROWS
    begin = tl.load(offsets + m, mask=m < num_slots, other=0)
    end = tl.load(offsets + m + 1, mask=m < num_slots, other=0)
    first_tile = (begin + TILE - 1) // TILE
    tiles = tl.maximum(end // TILE - first_tile, 0)
    # Loose tokens lie before the first whole tile and after the last.
    loose = end - begin - tiles * TILE
    before = tl.where(tiles > 0, first_tile * TILE - begin, loose)

    total = tl.zeros((BLOCK_M * ROWS, BLOCK_C), tl.float32)
    for start in range(0, tl.max(loose, 0), ROWS):
        i = start + p % ROWS
        place = begin + i + tl.where(i < before, 0, tiles * TILE)
        row = tl.load(tokens + place, mask=i < loose, other=0).to(tl.int64)
        there = (i < loose)[:, None] & used
        rows = tl.load(x + row[:, None] * channels + c[None, :], mask=there, other=0.0)
        total += rows.to(tl.float32)
    for start in range(0, tl.max(tiles, 0), ROWS):
        i = start + p % ROWS
        row = (first_tile + i).to(tl.int64)
        there = (i < tiles)[:, None] & used
        total += tl.load(tile_sums + row[:, None] * channels + c[None, :], mask=there, other=0.0)
    total = tl.sum(tl.reshape(total, (BLOCK_M, ROWS, BLOCK_C)), 1)

    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    there = m < num_slots
    if MEAN:
        length = tl.load(offsets + m + 1, mask=there, other=1)
        length -= tl.load(offsets + m, mask=there, other=0)
        total /= length.to(tl.float32)[:, None]
    at = out + m.to(tl.int64)[:, None] * channels + c[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=there[:, None] & used)


@triton.jit
def _expand_kernel(
    y, slot, offsets, residual, out, num_tokens, num_slots, channels, map_stride, offset_stride,
    MEAN: tl.constexpr, ADD: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (n < num_tokens)[:, None] & (c < channels)[None, :]  # [BLOCK_N, BLOCK_C]
    s = tl.load(slot + b * map_stride + n, mask=n < num_tokens, other=0)
    row = b * num_slots + s
    value = tl.load(y + row[:, None] * channels + c[None, :], mask=there, other=0.0)
    value = value.to(tl.float32)
    if MEAN:
        at = offsets + b * offset_stride + s
        length = tl.load(at + 1, mask=n < num_tokens, other=1)
        length -= tl.load(at, mask=n < num_tokens, other=0)
        value /= length.to(tl.float32)[:, None]
    at = (b * num_tokens + n)[:, None] * channels + c[None, :]
    if ADD:
        value += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=there)
