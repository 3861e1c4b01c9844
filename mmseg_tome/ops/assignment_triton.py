"""`assign` as one Triton kernel: the r-th largest similarity by bisection instead of a sort.

A program handles a sample. It bisects the values between the smallest and the largest similarity,
counting at each step how many are at least that large, until r are: about log2(S) steps, since
few values fall between two neighbours. Then one pass numbers the slots with running sums.

Bytes of a sample: 4 S for the similarities, read once for up to 16384 sources (they stay in
registers) and once per step beyond; 8 S + 8 N for the indices; 8 N written. No FLOP to speak of:
the time is that of some 20 block-wide reductions of 1024 threads, about 0.3 us each.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

IN_REGISTERS = 16384
"""Most similarities that a program keeps in registers: 16 for each of 1024 threads."""
CHUNK = 8192
"""Similarities read at a time beyond that."""
STEP = 4096
"""Sources that get their slots at a time: running sums take more registers."""


def assign(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> Tensor:
    """See `mmseg_tome.ops.assignment.assign`; similarities may be float32 or half precision."""
    batch, num_src = similarity.shape
    slot = nearest.new_empty(batch, num_tokens)
    single = num_src <= IN_REGISTERS
    block = triton.next_power_of_2(max(num_src, 1)) if single else CHUNK
    # Eight similarities a thread at first, sixteen where there are no more threads to be had.
    most_warps = 32 if torch.version.hip is None else 16
    _assign_kernel[(batch,)](
        similarity.contiguous(),
        nearest.contiguous(),
        src.contiguous(),
        dst.contiguous(),
        slot,
        r,
        num_src,
        dst.shape[0],
        num_tokens,
        BLOCK=block,
        STEP=min(block, STEP),
        SINGLE=single,
        num_warps=min(max(block // 256, 1), most_warps),
    )
    return slot


@triton.jit
def _keys(similarity, j, num_src):
    """Integers in the order of the similarities; NaN as -inf, and less than that past the end."""
    x = tl.load(similarity + j, mask=j < num_src, other=0.0).to(tl.float32)
    x = tl.where(x == x, x, float("-inf"))
    x = tl.where(x == 0, 0.0, x)  # -0 equals 0
    bits = x.to(tl.int32, bitcast=True)
    keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(j < num_src, keys, -0x80000000)


@triton.jit
def _count(similarity, keys, least, num_src, BLOCK: tl.constexpr, SINGLE: tl.constexpr):
    """How many keys are at least `least`."""
    if SINGLE:
        return tl.sum((keys >= least).to(tl.int32), 0)
    else:
        found = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, num_src, BLOCK):
            chunk = _keys(similarity, start + tl.arange(0, BLOCK), num_src)
            found += (chunk >= least).to(tl.int32)
        return tl.sum(found, 0)


@triton.jit
def _assign_kernel(
    similarity,
    nearest,
    src,
    dst,
    slot,
    r,
    num_src,
    num_dst,
    tokens,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    SINGLE: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    similarity += b * num_src
    nearest += b * num_src
    slot += b * tokens
    lanes = tl.arange(0, BLOCK)

    # The r-th largest key lies between the smallest and the largest.
    keys = _keys(similarity, lanes, num_src)
    highest = keys
    lowest = tl.where(lanes < num_src, keys, 0x7FFFFFFF)
    if not SINGLE:
        for start in range(BLOCK, num_src, BLOCK):
            chunk = _keys(similarity, start + lanes, num_src)
            highest = tl.maximum(highest, chunk)
            lowest = tl.minimum(lowest, tl.where(start + lanes < num_src, chunk, 0x7FFFFFFF))
    low = tl.min(lowest, 0)
    high = tl.max(highest, 0)
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)  # their mean rounded up, without overflow
        found = _count(similarity, keys, middle, num_src, BLOCK, SINGLE)
        low = tl.where(found >= r, middle, low)
        high = tl.where(found > r, high, tl.where(found == r, middle, middle - 1))
    # All above it merge, and of those equal to it the first.
    ties = r - _count(similarity, keys, low + 1, num_src, BLOCK, SINGLE)

    ties_before = 0
    merged_before = 0
    for start in range(0, num_src, STEP):
        j = start + tl.arange(0, STEP)
        chunk = _keys(similarity, j, num_src)
        tied = (chunk == low).to(tl.int32)
        first = ties_before + tl.cumsum(tied, 0) - tied < ties
        merged = ((chunk > low) | ((chunk == low) & first)).to(tl.int32)
        own = num_dst + j - (merged_before + tl.cumsum(merged, 0) - merged)
        to = tl.load(nearest + j, mask=j < num_src, other=0)
        row = tl.load(src + j, mask=j < num_src, other=0)
        tl.store(slot + row, tl.where(merged > 0, to, own.to(tl.int64)), mask=j < num_src)
        ties_before += tl.sum(tied, 0)
        merged_before += tl.sum(merged, 0)
    for start in range(0, num_dst, STEP):
        d = start + tl.arange(0, STEP)
        row = tl.load(dst + d, mask=d < num_dst, other=0)
        tl.store(slot + row, d.to(tl.int64), mask=d < num_dst)
