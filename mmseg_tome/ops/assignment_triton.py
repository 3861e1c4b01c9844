"""`assign_ordered` as Triton kernels: the r-th largest similarity by bisection instead of a sort.

Up to MOST_SOURCES one launch does everything. Each of its programs holds all similarities of a
sample in registers and finds the r-th largest by itself: no program waits for another, and the
multiprocessors would idle otherwise.

With that, every program knows what merges, and how many tokens the slots before any other have. A
source that stays is alone in its slot, so its place in the order is known as well: a program writes
those of PART sources. And it lists the sources of OWNED destinations and sorts them.

More sources take three steps: one program a sample for the search, programs that number the slots
of STEP sources each, and the sort of any map.

Bytes of a sample: 12 S for each of D / OWNED programs, from L2 but the first time; 12 N + 4 M are
written. No FLOP to speak of: the time is that of some 15 sums over 512 threads, 0.3 to 0.5 us each,
of as many instructions again for the rest, and of one launch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops import segment_triton
from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2
from mmseg_tome.ops.library import operator
from mmseg_tome.ops.selection_triton import (
    count_keys,
    number_merging,
    search,
    similarity_keys,
)

MOST_SOURCES = 16384
"""Most sources that one launch merges; a list's entry has 14 bits for a source."""
OWNED, SORT_STEP = 8, 256
"""Destinations that a program of it sorts the sources of, and sources that it sorts at a time."""
PER_WARP = 256
"""Similarities that a warp of it holds, up to 16 warps."""
BLOCK = 32768
"""Most similarities that a search of more reads at a time: 32 for each of 1024 threads."""
STEP = 2048
"""Sources, and destinations, that a program gives their slots then."""


def _shapes(similarity, nearest, r, src, dst, num_tokens):
    slot = nearest.new_empty(nearest.shape[0], num_tokens)
    return slot, *segment_triton.order_like(slot, num_tokens - r)


@operator(
    "assign_ordered(Tensor similarity, Tensor nearest, SymInt r, Tensor src, Tensor dst, "
    "SymInt num_tokens) -> (Tensor, Tensor, Tensor)",
    _shapes,
)
def assign_ordered(similarity, nearest, r, src, dst, num_tokens):
    """See `mmseg_tome.ops.assignment.assign_ordered`; similarities may be of half precision, too.

    Returns:
        The slot map, and the two tensors of its order.
    """
    similarity, nearest = similarity.contiguous(), nearest.contiguous()
    src, dst = src.contiguous(), dst.contiguous()
    batch, num_src = similarity.shape
    if num_src > MOST_SOURCES:
        slot = assign_many(similarity, nearest, r, src, dst)
        return slot, *segment_triton.segment_order.run(slot, num_tokens - r)
    num_dst = dst.shape[0]
    slot, tokens, offsets = _shapes(similarity, nearest, r, src, dst, num_tokens)
    listed = nearest.new_empty(batch, num_src, dtype=torch.int32)
    programs = max(ceil_div(num_dst, OWNED), 1)
    block = next_power_of_2(max(num_src, 128))
    launch(
        _assign_kernel, (programs, batch), similarity, nearest, src, dst, listed, slot, tokens,
        offsets, r, num_src, num_dst,
        BLOCK=block, PART=max(next_power_of_2(ceil_div(num_src, programs)), 32), OWNED=OWNED,
        STEP=SORT_STEP, num_warps=min(max(block // PER_WARP, 4), 16),
    )  # fmt: skip
    return slot, tokens, offsets


def assign_many(similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor) -> Tensor:
    """The slot map of any number of sources; all tensors are contiguous."""
    batch, num_src = similarity.shape
    num_dst = dst.shape[0]
    slot = nearest.new_empty(batch, num_src + num_dst)
    chosen = nearest.new_empty(batch, 2, dtype=torch.int32)
    block = min(next_power_of_2(max(num_src, 1)), BLOCK)
    # Eight similarities a thread at first, more where there are no more threads to be had.
    most_warps = 32 if torch.version.hip is None else 16
    launch(
        _search_kernel, (batch,), similarity, chosen, r, num_src,
        BLOCK=block, SINGLE=num_src <= block, num_warps=min(max(block // 256, 1), most_warps),
    )  # fmt: skip
    launch(
        _number_kernel, (ceil_div(max(num_src, num_dst), STEP), batch), similarity, nearest, src,
        dst, chosen, slot, num_src, num_dst, num_src + num_dst,
        STEP=STEP, num_warps=8,
    )  # fmt: skip
    return slot


@triton.jit
def _search_kernel(similarity, chosen, r, num_src, BLOCK: tl.constexpr, SINGLE: tl.constexpr):
    """The r-th largest key of a sample, and how many of those equal to it are to merge."""
    b = tl.program_id(0).to(tl.int64)
    similarity += b * num_src
    keys = similarity_keys(similarity, tl.arange(0, BLOCK), num_src, 1, -1, 1, 1)
    key, _ = search(similarity, keys, r, num_src, num_src, 1, -1, 1, 1, BLOCK, SINGLE)
    larger = count_keys(similarity, keys, key, num_src, 1, -1, 1, 1, BLOCK, SINGLE)
    tl.store(chosen + 2 * b, key)
    tl.store(chosen + 2 * b + 1, r - larger)


@triton.jit
def _assign_kernel(
    similarity, nearest, src, dst, listed, slot, tokens, offsets, r, num_src, num_dst,
    BLOCK: tl.constexpr, PART: tl.constexpr, OWNED: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Find what merges; then the slots and places of PART sources, and of OWNED destinations."""
    b = tl.program_id(1).to(tl.int64)
    num_tokens = num_src + num_dst
    similarity += b * num_src
    nearest += b * num_src
    listed += b * num_src
    slot += b * num_tokens
    tokens += b * num_tokens
    offsets += b * (num_tokens - r + 1)
    # In rows of a warp each, so that sums along a row need no other warp.
    rows = tl.arange(0, BLOCK // 128)
    j = rows[:, None] * 128 + tl.arange(0, 128)[None, :]
    keys = similarity_keys(similarity, j, num_src, 1, -1, 1, 1)
    to = tl.load(nearest + j, mask=j < num_src, other=0).to(tl.int32)
    key, reach = search(similarity, keys, r, num_src, num_src, 1, -1, 1, 1, BLOCK, True)
    until = num_src  # of the sources at the key those before this position merge
    if reach != r:
        tied = (keys == key).to(tl.int32)
        nth = _cumsum(tied, rows)
        until = tl.sum((nth <= tl.sum(tied) - (reach - r)).to(tl.int32))
    merges = (keys > key) | ((keys == key) & (j < until))

    # List the sources of the own destinations, after those of the destinations before.
    first = tl.program_id(0) * OWNED
    start = tl.program_id(0) * PART
    to = tl.where(merges, to - first, OWNED)
    # Two counts at once.
    counts = tl.where(to < 0, 1, 0) + tl.where(merges & (j < start), 0x10000, 0)
    counts = tl.sum(counts)
    begin = counts & 0xFFFF
    mine = (to >= 0) & (to < OWNED)
    nth = _cumsum(mine.to(tl.int32), rows)
    tl.store(listed + begin + nth - 1, (to << 14) + j, mask=mine)
    end = begin + tl.max(nth)

    i = start + tl.arange(0, PART)
    own = num_dst + i - (counts >> 16)
    _number(similarity, nearest, src, slot, tokens, offsets, i, own, key, until, r, num_src)
    if tl.program_id(0) == 0:
        tl.store(offsets + num_tokens - r, num_tokens)
    tl.debug_barrier()  # other threads wrote the list
    _sort(src, dst, listed, slot, tokens, offsets, first, begin, end, num_dst, OWNED, STEP)


@triton.jit
def _cumsum(x, rows):
    """Cumulative sum of a matrix, row after row: fewer instructions than of one long vector."""
    count = tl.sum(x, 1)
    before = tl.sum(tl.where(rows[None, :] < rows[:, None], count[None, :], 0), 1)
    return before[:, None] + tl.cumsum(x, 1)


@triton.jit
def _number(similarity, nearest, src, slot, tokens, offsets, i, own, key, until, r, num_src):
    """Slots of the sources i, and the places of those that stay, each alone in its slot.

    The r-th largest similarity has this key; of the sources at it those before `until` merge. If
    none of these sources merged, their slots would be `own`.
    """
    keys = similarity_keys(similarity, i, num_src, 1, -1, 1, 1)
    merges = (keys > key) | ((keys == key) & (i < until))
    own -= tl.cumsum(merges.to(tl.int32), 0)
    row = tl.load(src + i, mask=i < num_src, other=0)
    to = tl.load(nearest + i, mask=i < num_src, other=0)
    tl.store(slot + row, tl.where(merges, to, own.to(tl.int64)), mask=i < num_src)
    stays = (i < num_src) & (merges == 0)
    tl.store(tokens + r + own, row.to(tl.int32), mask=stays)
    tl.store(offsets + own, r + own, mask=stays)


@triton.jit
def _sort(
    src, dst, listed, slot, tokens, offsets, first, begin, end, num_dst,
    OWNED: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Sort the tokens of OWNED destinations: count each one's, then place one after another."""
    m = tl.arange(0, OWNED)
    there = first + m < num_dst
    row = tl.load(dst + first + m, mask=there, other=0).to(tl.int32)
    earlier = row - (first + m)  # sources before the destination, as tokens are in order
    length = tl.full((OWNED,), 1, tl.int32)
    before = tl.zeros((OWNED,), tl.int32)
    for start in range(begin, end, STEP):
        k = start + tl.arange(0, STEP)
        entry = tl.load(listed + k, mask=k < end, other=OWNED << 14)
        member = (entry >> 14)[None, :] == m[:, None]  # [OWNED, STEP]
        length += tl.sum(member.to(tl.int32), 1)
        ahead = member & ((entry & 0x3FFF)[None, :] < earlier[:, None])
        before += tl.sum(ahead.to(tl.int32), 1)
    # Each of the slots before has a destination besides its sources.
    place = first + begin + tl.cumsum(length, 0) - length  # [OWNED]
    tl.store(slot + row, (first + m).to(tl.int64), mask=there)
    tl.store(offsets + first + m, place, mask=there)
    tl.store(tokens + place + before, row, mask=there)
    for start in range(begin, end, STEP):
        k = start + tl.arange(0, STEP)
        entry = tl.load(listed + k, mask=k < end, other=OWNED << 14)
        source = entry & 0x3FFF
        token = tl.load(src + source, mask=k < end, other=0).to(tl.int32)
        member = (entry >> 14)[None, :] == m[:, None]  # [OWNED, STEP]
        at = place[:, None] + tl.cumsum(member.to(tl.int32), 1) - 1
        at += (source[None, :] >= earlier[:, None]).to(tl.int32)  # after the destination
        tl.store(tokens + at, tl.broadcast_to(token[None, :], (OWNED, STEP)), mask=member)
        place += tl.sum(member.to(tl.int32), 1)


@triton.jit
def _number_kernel(
    similarity, nearest, src, dst, chosen, slot, num_src, num_dst, tokens,
    STEP: tl.constexpr,
):  # fmt: skip
    """Give STEP destinations and STEP sources their slots: all above the key merge, some at it."""
    b = tl.program_id(1).to(tl.int64)
    similarity += b * num_src
    nearest += b * num_src
    slot += b * tokens
    key = tl.load(chosen + 2 * b)
    ties = tl.load(chosen + 2 * b + 1)
    begin = tl.program_id(0) * STEP
    j = begin + tl.arange(0, STEP)
    merged, before = number_merging(similarity, key, ties, begin, num_src, 1, -1, 1, 1, STEP)
    own = num_dst + j - (before + tl.cumsum(merged, 0) - merged)
    to = tl.load(nearest + j, mask=j < num_src, other=0)
    row = tl.load(src + j, mask=j < num_src, other=0)
    tl.store(slot + row, tl.where(merged > 0, to, own.to(tl.int64)), mask=j < num_src)

    row = tl.load(dst + j, mask=j < num_dst, other=0)
    tl.store(slot + row, j.to(tl.int64), mask=j < num_dst)
