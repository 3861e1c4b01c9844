"""Local merging as Triton kernels: one pass over the tokens, then one over the windows.

The first launch reads each token once and leaves one number a window. In the second, programs
number the slots of STEP windows each; every one of them finds by itself, by bisection among all
windows of the sample, how alike a window must be to merge: the same search at the same time needs
no launch of its own and no program waits for another.

Bytes of a sample with N tokens of C channels, E bytes an element, in W windows: N C E and 4 W, then
4 W for each program of STEP windows, 8 N and 4 M written. FLOP: 5 N C on the ordinary units.
"""

import torch
import triton
import triton.language as tl

from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2
from mmseg_tome.ops.library import operator
from mmseg_tome.ops.matching_triton import inverse_root
from mmseg_tome.ops.selection_triton import (
    count_keys,
    number_merging,
    search,
    similarity_keys,
)

ELEMENTS = 2048
"""Elements of the tokens that a program holds at once."""
BLOCK = 16384
"""Most similarities that a program reads at a time."""
STEP = 256
"""Windows whose slots a program numbers, where they are small."""
STEP_TOKENS = 4096
"""Tokens that it gives a slot at most: with more, the compiler takes minutes."""


def _similarity_shape(metric, hw, stride):
    windows = ceil_div(hw[0], stride[0]) * ceil_div(hw[1], stride[1])
    return metric.new_empty(metric.shape[0], windows, dtype=torch.float32)


@operator(
    "window_similarity(Tensor metric, SymInt[] hw, SymInt[] stride) -> Tensor", _similarity_shape
)
def window_similarity(metric, hw, stride):
    """See `mmseg_tome.ops.local.window_similarity`."""
    metric = metric.contiguous()
    channels, cols = metric.shape[2], ceil_div(hw[1], stride[1])
    similarity = _similarity_shape(metric, hw, stride)
    batch, windows = similarity.shape
    block_k = next_power_of_2(stride[0] * stride[1])
    block_c = min(next_power_of_2(channels), 128, max(ELEMENTS // block_k, 16))
    block_w = max(ELEMENTS // (block_k * block_c), 1)
    launch(
        _similarity_kernel, (ceil_div(windows, block_w), batch), metric, similarity, *hw, channels,
        windows, cols,
        SY=stride[0], SX=stride[1], BLOCK_W=block_w, BLOCK_K=block_k, BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip
    return similarity


def _assigned_shapes(similarity, counts, num_slots, hw, stride):
    slot = similarity.new_empty(similarity.shape[0], hw[0] * hw[1], dtype=torch.int64)
    return slot, similarity.new_empty(similarity.shape[0], num_slots + 1, dtype=torch.int32)


@operator(
    "assign_windows(Tensor similarity, SymInt[] counts, SymInt num_slots, SymInt[] hw,"
    " SymInt[] stride) -> (Tensor, Tensor)",
    _assigned_shapes,
)
def assign_windows(similarity, counts, num_slots, hw, stride):
    """See `mmseg_tome.ops.local.assign_windows`.

    Args:
        similarity: `[B, windows]`, float32.
        counts: How many windows of each shape merge.
        num_slots: What is left then, M.
        hw: The grid of the tokens.
        stride: Size of a window in tokens.

    Returns:
        The slot of each token, `[B, H * W]`, int64, and where each slot's tokens begin among those
        sorted by window, and by slot, `[B, M + 1]`, int32.
    """
    similarity = similarity.contiguous()
    batch, windows = similarity.shape
    slot, offsets = _assigned_shapes(similarity, counts, num_slots, hw, stride)
    is_even = hw[0] % stride[0] == 0 and hw[1] % stride[1] == 0
    block = min(next_power_of_2(windows), BLOCK)
    block_k = next_power_of_2(stride[0] * stride[1])
    step = max(min(STEP, STEP_TOKENS // block_k), 1)
    launch(
        _assign_windows_kernel, (ceil_div(windows, step), batch), similarity, slot, offsets, *hw,
        num_slots, *counts,
        SY=stride[0], SX=stride[1], FIRST_KIND=-1 if is_even else 0, LAST_KIND=-1 if is_even else 3,
        BLOCK=block, SINGLE=windows <= block, STEP=step, BLOCK_K=block_k,
        num_warps=min(max(block // 256, step * block_k // 512, 2), 16),
    )  # fmt: skip
    return slot, offsets


@triton.jit
def _similarity_kernel(
    metric, similarity, height, width, channels, windows, cols,
    SY: tl.constexpr, SX: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    w = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
    k = tl.arange(0, BLOCK_K)
    row = (w // cols * SY)[:, None] + (k // SX)[None, :]  # [BLOCK_W, BLOCK_K]
    col = (w % cols * SX)[:, None] + (k % SX)[None, :]
    there = (w < windows)[:, None] & (k < SY * SX)[None, :] & (row < height) & (col < width)
    at = metric + (b * height * width + row * width + col) * channels
    # Threads add up what is theirs, and only in the end what is another's.
    square = tl.zeros((BLOCK_W, BLOCK_K, BLOCK_C), tl.float32)
    product = tl.zeros((BLOCK_W, BLOCK_K, BLOCK_C), tl.float32)
    of_total = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    for c0 in range(0, channels, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        used = there[:, :, None] & (c < channels)[None, None, :]
        x = tl.load(at[:, :, None] + c[None, None, :], mask=used, other=0.0).to(tl.float32)
        total = tl.sum(x, 1)  # [BLOCK_W, BLOCK_C]; in the direction of the mean
        square += x * x
        product += x * total[:, None, :]
        of_total += total * total
    inverse = inverse_root(tl.sum(square, 2))
    cosines = tl.sum(tl.where(inverse > 0, tl.sum(product, 2) * inverse, 0.0), 1)
    inverse = inverse_root(tl.sum(of_total, 1))
    mean = cosines * inverse / tl.maximum(tl.sum(there.to(tl.int32), 1), 1).to(tl.float32)
    tl.store(similarity + b * windows + w, tl.where(inverse > 0, mean, 0.0), mask=w < windows)


@triton.jit
def _assign_windows_kernel(
    similarity, slot, offsets, height, width, num_slots, full, right, bottom, corner,
    SY: tl.constexpr, SX: tl.constexpr, FIRST_KIND: tl.constexpr, LAST_KIND: tl.constexpr,
    BLOCK: tl.constexpr, SINGLE: tl.constexpr, STEP: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    windows = tl.cdiv(height, SY) * tl.cdiv(width, SX)
    similarity += b * windows
    slot += b * height * width
    offsets += b * (num_slots + 1)
    begin = tl.program_id(0) * STEP
    w = begin + tl.arange(0, STEP)
    lanes = tl.arange(0, BLOCK)

    merged = tl.zeros((STEP,), tl.int32)
    removed = 0  # tokens, by the windows before these
    for KIND in tl.static_range(FIRST_KIND, LAST_KIND + 1):
        if KIND < 1:
            r = full
        elif KIND == 1:
            r = right
        elif KIND == 2:
            r = bottom
        else:
            r = corner
        # The largest key that r keys at least reach: those above it merge, of its own the first.
        keys = similarity_keys(similarity, lanes, height, width, KIND, SY, SX)
        low, _ = search(
            similarity, keys, r, -1, height, width, KIND, SY, SX, BLOCK, SINGLE
        )  # fmt: skip
        ties = r - count_keys(
            similarity, keys, low, height, width, KIND, SY, SX, BLOCK, SINGLE
        )  # fmt: skip
        found, before = number_merging(
            similarity, low, ties, begin, height, width, KIND, SY, SX, STEP
        )  # fmt: skip
        merged += found
        size = (height % SY if KIND >= 2 else SY) * (width % SX if KIND == 1 or KIND == 3 else SX)
        removed += before * (size - 1)

    cols = tl.cdiv(width, SX)
    row, col = w // cols * SY, w % cols * SX  # of a window's first token
    tall, wide = tl.minimum(height - row, SY), tl.minimum(width - col, SX)
    start = row * width + tall * col  # tokens of the windows before
    gone = merged * (tall * wide - 1)
    first = start - removed - (tl.cumsum(gone, 0) - gone)

    y, x = (tl.arange(0, BLOCK_K) // SX)[None, :], (tl.arange(0, BLOCK_K) % SX)[None, :]
    there = (w < windows)[:, None] & (y < tall[:, None]) & (x < wide[:, None])
    place = y * wide[:, None] + x  # [STEP, BLOCK_K]
    token = (row[:, None] + y) * width + col[:, None] + x
    own = tl.where(merged[:, None] > 0, 0, place)
    tl.store(slot + token, (first[:, None] + own).to(tl.int64), mask=there)
    begins = there & ((merged[:, None] == 0) | (place == 0))
    tl.store(offsets + first[:, None] + place, start[:, None] + place, mask=begins)
    if tl.program_id(0) == tl.num_programs(0) - 1:
        tl.store(offsets + num_slots, height * width)
