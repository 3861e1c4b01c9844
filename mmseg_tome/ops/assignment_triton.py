"""`assign` as Triton kernels: the r-th largest similarity by bisection instead of a sort.

Two launches. In the first, a program handles a sample. It bisects the values between the smallest
and the largest similarity, counting at each step how many are at least that large, until r are:
about log2(S) steps, since few values fall between two neighbours. In the second, programs number
the slots of STEP sources each, for which they count what merges before theirs.

Bytes of a sample: 4 S for the similarities, read once for up to BLOCK sources (they stay in
registers) and once per step beyond, and then once for each program that comes later; 8 S + 8 N for
the indices; 8 N written. No FLOP to speak of: the time is that of some 15 block-wide reductions of
1024 threads, 0.3 to 0.5 us each, and of two launches.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2

BLOCK = 32768
"""Most similarities that a program reads at a time: 32 for each of 1024 threads."""
STEP = 2048
"""Sources, and destinations, that a program gives their slots."""


def assign(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> Tensor:
    """See `mmseg_tome.ops.assignment.assign`; similarities may be float32 or half precision."""
    similarity = similarity.contiguous()
    batch, num_src = similarity.shape
    slot = nearest.new_empty(batch, num_tokens)
    chosen = nearest.new_empty(batch, 2, dtype=torch.int32)
    block = min(next_power_of_2(max(num_src, 1)), BLOCK)
    # Eight similarities a thread at first, more where there are no more threads to be had.
    most_warps = 32 if torch.version.hip is None else 16
    launch(
        _search_kernel,
        (batch,),
        similarity,
        chosen,
        r,
        num_src,
        BLOCK=block,
        SINGLE=num_src <= block,
        num_warps=min(max(block // 256, 1), most_warps),
    )
    num_dst = dst.shape[0]
    launch(
        _number_kernel,
        (ceil_div(max(num_src, num_dst), STEP), batch),
        similarity,
        nearest.contiguous(),
        src.contiguous(),
        dst.contiguous(),
        chosen,
        slot,
        num_src,
        num_dst,
        num_tokens,
        STEP=STEP,
        num_warps=8,
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
    """How many keys of the sample are at least `least`."""
    if SINGLE:
        return tl.sum((keys >= least).to(tl.int32), 0)
    else:
        found = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, num_src, BLOCK):
            chunk = _keys(similarity, start + tl.arange(0, BLOCK), num_src)
            found += (chunk >= least).to(tl.int32)
        return tl.sum(found, 0)


@triton.jit
def _search_kernel(similarity, chosen, r, num_src, BLOCK: tl.constexpr, SINGLE: tl.constexpr):
    """The r-th largest key of a sample, and how many of those equal to it are to merge."""
    b = tl.program_id(0).to(tl.int64)
    similarity += b * num_src
    lanes = tl.arange(0, BLOCK)
    keys = _keys(similarity, lanes, num_src)
    highest = keys
    lowest = tl.where(lanes < num_src, keys, 0x7FFFFFFF)
    if not SINGLE:
        for start in range(BLOCK, num_src, BLOCK):
            chunk = _keys(similarity, start + lanes, num_src)
            highest = tl.maximum(highest, chunk)
            lowest = tl.minimum(lowest, tl.where(start + lanes < num_src, chunk, 0x7FFFFFFF))
    # The key lies between the smallest and the largest.
    low = tl.min(lowest, 0)
    high = tl.max(highest, 0)
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)  # their mean rounded up, without overflow
        found = _count(similarity, keys, middle, num_src, BLOCK, SINGLE)
        low = tl.where(found >= r, middle, low)
        high = tl.where(found > r, high, tl.where(found == r, middle, middle - 1))
    larger = _count(similarity, keys, low + 1, num_src, BLOCK, SINGLE)
    tl.store(chosen + 2 * b, low)
    tl.store(chosen + 2 * b + 1, r - larger)


@triton.jit
def _number_kernel(
    similarity,
    nearest,
    src,
    dst,
    chosen,
    slot,
    num_src,
    num_dst,
    tokens,
    STEP: tl.constexpr,
):
    """Give STEP destinations and STEP sources their slots: all above the key merge, some at it."""
    b = tl.program_id(1).to(tl.int64)
    similarity += b * num_src
    nearest += b * num_src
    slot += b * tokens
    key = tl.load(chosen + 2 * b)
    ties = tl.load(chosen + 2 * b + 1)
    begin = tl.program_id(0) * STEP
    lanes = tl.arange(0, STEP)

    above = tl.zeros((STEP,), tl.int32)
    equal = tl.zeros((STEP,), tl.int32)
    for start in range(0, begin, STEP):
        chunk = _keys(similarity, start + lanes, num_src)
        above += (chunk > key).to(tl.int32)
        equal += (chunk == key).to(tl.int32)
    ties_before = tl.sum(equal, 0)
    merged_before = tl.sum(above, 0) + tl.minimum(ties_before, ties)

    j = begin + lanes
    chunk = _keys(similarity, j, num_src)
    tied = (chunk == key).to(tl.int32)
    is_first = ties_before + tl.cumsum(tied, 0) - tied < ties
    merged = ((chunk > key) | ((chunk == key) & is_first)).to(tl.int32)
    own = num_dst + j - (merged_before + tl.cumsum(merged, 0) - merged)
    to = tl.load(nearest + j, mask=j < num_src, other=0)
    row = tl.load(src + j, mask=j < num_src, other=0)
    tl.store(slot + row, tl.where(merged > 0, to, own.to(tl.int64)), mask=j < num_src)

    row = tl.load(dst + j, mask=j < num_dst, other=0)
    tl.store(slot + row, j.to(tl.int64), mask=j < num_dst)
