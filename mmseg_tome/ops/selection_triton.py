"""The r-th largest of many similarities by bisection instead of a sort, for kernels.

It bisects the values between the smallest and the largest similarity, counting at each step how
many are at least that large, until r are: about log2(N) steps, since few values fall between two
neighbours. Each program does so independently.

Similarities are those of windows of SY x SX tokens on a grid of height x width, of which only those
of one KIND count: 0 for full windows, 1 for those that the grid cuts at the right, 2 at the bottom,
3 in the corner, and -1 where all count. Plain N similarities are those of a grid of N x 1.
"""

import triton
import triton.language as tl

NO_KEY = tl.constexpr(-0x80000000)
"""Of what does not count; less than any similarity's, -inf included."""


@triton.jit
def similarity_keys(
    similarity, j, height, width, KIND: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr
):
    """Integers in the order of the similarities at j; NaN as -inf, `NO_KEY` past the end."""
    rows, cols = tl.cdiv(height, SY), tl.cdiv(width, SX)
    there = j < rows * cols
    x = tl.load(similarity + j, mask=there, other=0.0).to(tl.float32)
    x = tl.where(x == x, x, float("-inf"))
    x = tl.where(x == 0, 0.0, x)  # -0 equals 0
    bits = x.to(tl.int32, bitcast=True)
    keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = tl.where(there, keys, NO_KEY)
    if KIND >= 0:
        kind = 2 * (j // cols >= height // SY).to(tl.int32)
        kind += (j % cols >= width // SX).to(tl.int32)
        keys = tl.where(kind == KIND, keys, NO_KEY)
    return keys


@triton.jit
def count_keys(
    similarity, keys, bound, height, width,
    KIND: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, BLOCK: tl.constexpr,
    SINGLE: tl.constexpr,
):  # fmt: skip
    """How many keys are larger than `bound`; other arguments as of `search`."""
    found = (keys > bound).to(tl.int32)
    if not SINGLE:
        for start in range(BLOCK, tl.cdiv(height, SY) * tl.cdiv(width, SX), BLOCK):
            j = start + tl.arange(0, BLOCK)
            more = similarity_keys(similarity, j, height, width, KIND, SY, SX)
            found += (more > bound).to(tl.int32)
    return tl.sum(found)


@triton.jit
def number_merging(
    similarity, key, ties, begin, height, width,
    KIND: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Which of STEP keys from `begin` on are above `key`, or among the first `ties` at it.

    Returns:
        1 or 0 for each, and how many such keys there are before.
    """
    lanes = tl.arange(0, STEP)
    above = tl.zeros((STEP,), tl.int32)
    equal = tl.zeros((STEP,), tl.int32)
    for start in range(0, begin, STEP):
        keys = similarity_keys(similarity, start + lanes, height, width, KIND, SY, SX)
        above += (keys > key).to(tl.int32)
        equal += (keys == key).to(tl.int32)
    ties_before = tl.sum(equal, 0)
    keys = similarity_keys(similarity, begin + lanes, height, width, KIND, SY, SX)
    tied = (keys == key).to(tl.int32)
    is_first = ties_before + tl.cumsum(tied, 0) - tied < ties
    merged = ((keys > key) | ((keys == key) & is_first)).to(tl.int32)
    return merged, tl.sum(above, 0) + tl.minimum(ties_before, ties)


@triton.jit
def search(
    similarity, keys, r, reach, height, width,
    KIND: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, BLOCK: tl.constexpr,
    SINGLE: tl.constexpr,
):  # fmt: skip
    """The r-th largest key of a sample, or a lower one that only r keys reach; how many reach it.

    Args:
        similarity: Of the sample, read anew at each step unless SINGLE.
        keys: The first BLOCK of its keys, with SINGLE all.
        r: From 0 to as many as there are.
        reach: How many reach the lowest, or -1.
        height: Of the grid.
        width: Likewise.
        KIND: What counts, as SY and SX above.
        BLOCK: Keys that are looked at together.
        SINGLE: Whether these are all.
    """
    lowest = tl.where(keys == NO_KEY, 0x7FFFFFFF, keys)
    highest = keys
    if not SINGLE:
        for start in range(BLOCK, tl.cdiv(height, SY) * tl.cdiv(width, SX), BLOCK):
            j = start + tl.arange(0, BLOCK)
            more = similarity_keys(similarity, j, height, width, KIND, SY, SX)
            lowest = tl.minimum(lowest, tl.where(more == NO_KEY, 0x7FFFFFFF, more))
            highest = tl.maximum(highest, more)
    # The key lies between the smallest and the largest.
    low = tl.min(lowest)
    high = tl.max(highest)
    reach = tl.full((), reach, tl.int32)
    while (low < high) & (reach != r):
        middle = (low | high) - ((low ^ high) >> 1)  # their mean rounded up, without overflow
        found = count_keys(
            similarity, keys, middle - 1, height, width, KIND, SY, SX, BLOCK, SINGLE
        )  # fmt: skip
        high = tl.where(found >= r, high, middle - 1)
        low = tl.where(found >= r, middle, low)
        reach = tl.where(found >= r, found, reach)
    return low, reach
