"""`label_map` as one Triton kernel: only the small logits are read, only labels are written.

A program owns BLOCK_W pixels of a row of the result. It runs over the classes, BLOCK_C at a time,
and over the windows that touch its pixels, and keeps the best class so far. Neighbouring pixels
read the same logits, which stay in the caches.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2
from mmseg_tome.ops.library import operator

MOST_CLASSES = 8
"""Classes at a time. Few waste little where their number is no power of two."""
BLOCK = 1024
"""Pixels times classes that a program holds at a time."""


def _shape(logits, hw, crop, stride, grid, padding, size):
    batch = logits.shape[0] // (grid[0] * grid[1])
    return logits.new_empty((batch, *size), dtype=torch.int64)


@operator(
    "label_map(Tensor logits, int[] hw, int[] crop, int[] stride, int[] grid, int[] padding,"
    " int[] size) -> Tensor",
    _shape,
)
def label_map(logits: Tensor, hw, crop, stride, grid, padding, size) -> Tensor:
    """See `mmseg_tome.ops.labelling.label_map`, with the fields of `Windows`."""
    out = _shape(logits, hw, crop, stride, grid, padding, size)
    batch, (_, classes, height, width) = out.shape[0], logits.shape
    # Images may be apart (one of a batch), their pixels not.
    if logits.stride()[1:] != (1, width * classes, classes):
        logits = logits.contiguous(memory_format=torch.channels_last)
    left, right, top, bottom = padding
    cut = (hw[0] - top - bottom, hw[1] - left - right)
    block_c = min(next_power_of_2(classes), MOST_CLASSES)
    block_w = min(BLOCK // block_c, next_power_of_2(size[1]))
    launch(
        _label_map_kernel, (batch * size[0], ceil_div(size[1], block_w)), logits, out,
        logits.stride(0), batch, classes, height, width, *hw, *crop, *stride, *grid, top, left,
        *cut, *size,
        # The compiler's own division is not exact enough for a position.
        height / crop[0], width / crop[1], cut[0] / size[0], cut[1] / size[1],
        RESIZED=tuple(size) != cut, BLOCK_W=block_w, BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _between(index, scale, size):
    """Where a pixel of a resized map lies between two of the map: the two and the way."""
    at = tl.maximum((index + 0.5) * scale - 0.5, 0.0)
    low = tl.minimum(at.to(tl.int32), size - 1)
    return low, tl.minimum(low + 1, size - 1), at - low


@triton.jit
def _mix(a, z, way):
    return a * (1.0 - way) + z * way


@triton.jit
def _mean_of_windows(
    logits, row, col, first, last, c, image_stride, batch, classes, height, width, full_h, full_w,
    crop_h, crop_w, stride_h, stride_w, grid_h, grid_w, scale_h, scale_w,
    BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The logits of the image at (row, col), `[BLOCK_W, BLOCK_C]`; all of col in first to last."""
    total = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    count = tl.zeros((BLOCK_W,), tl.float32)
    is_class = (c < classes)[None, :]
    for y in range(grid_h):
        y0 = tl.minimum(y * stride_h, full_h - crop_h)
        if (row >= y0) & (row < y0 + crop_h):
            top, bottom, down = _between(row - y0, scale_h, height)
            for x in range(grid_w):
                x0 = tl.minimum(x * stride_w, full_w - crop_w)
                if (last >= x0) & (first < x0 + crop_w):
                    inside = (col >= x0) & (col < x0 + crop_w)
                    left, right, along = _between(col - x0, scale_w, width)
                    there = inside[:, None] & is_class
                    left = left[:, None] * classes + c[None, :]
                    right = right[:, None] * classes + c[None, :]
                    along = along[:, None]
                    window = logits + (y * grid_w + x).to(tl.int64) * batch * image_stride
                    above = window + top.to(tl.int64) * width * classes
                    below = window + bottom.to(tl.int64) * width * classes
                    a = tl.load(above + left, mask=there, other=0.0).to(tl.float32)
                    z = tl.load(above + right, mask=there, other=0.0).to(tl.float32)
                    upper = _mix(a, z, along)
                    a = tl.load(below + left, mask=there, other=0.0).to(tl.float32)
                    z = tl.load(below + right, mask=there, other=0.0).to(tl.float32)
                    total += _mix(upper, _mix(a, z, along), down)
                    count += inside.to(tl.float32)
    return total / count[:, None]


@triton.jit
def _label_map_kernel(
    logits, out, image_stride, batch, classes, height, width, full_h, full_w, crop_h, crop_w,
    stride_h, stride_w, grid_h, grid_w, pad_top, pad_left, cut_h, cut_w, out_h, out_w,
    scale_h, scale_w, again_h, again_w,
    RESIZED: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // out_h).to(tl.int64)
    row = tl.program_id(0) % out_h
    first = tl.program_id(1) * BLOCK_W
    last = tl.minimum(first + BLOCK_W, out_w) - 1
    pixel = first + tl.arange(0, BLOCK_W)
    col = tl.minimum(pixel, out_w - 1)
    logits += b * image_stride
    best = tl.full((BLOCK_W, BLOCK_C), float("-inf"), tl.float32)
    label = tl.zeros((BLOCK_W, BLOCK_C), tl.int32)
    if RESIZED:  # four neighbours in the image instead of one pixel
        top, bottom, down = _between(row, again_h, cut_h)
        left, right, along = _between(col, again_w, cut_w)
        start, _, _ = _between(first, again_w, cut_w)
        _, end, _ = _between(last, again_w, cut_w)
    else:
        top, bottom, down = row, row, 0.0
        left, right, along = col, col, 0.0
        start, end = first, last
    top += pad_top
    bottom += pad_top
    left += pad_left
    right += pad_left
    start += pad_left
    end += pad_left
    for begin in range(0, classes, BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        value = _mean_of_windows(
            logits, top, left, start, end, c, image_stride, batch, classes, height, width,
            full_h, full_w, crop_h, crop_w, stride_h, stride_w, grid_h, grid_w, scale_h, scale_w,
            BLOCK_W, BLOCK_C,
        )  # fmt: skip
        if RESIZED:
            z = _mean_of_windows(
                logits, top, right, start, end, c, image_stride, batch, classes, height, width,
                full_h, full_w, crop_h, crop_w, stride_h, stride_w, grid_h, grid_w, scale_h,
                scale_w, BLOCK_W, BLOCK_C,
            )  # fmt: skip
            upper = _mix(value, z, along[:, None])
            value = _mean_of_windows(
                logits, bottom, left, start, end, c, image_stride, batch, classes, height, width,
                full_h, full_w, crop_h, crop_w, stride_h, stride_w, grid_h, grid_w, scale_h,
                scale_w, BLOCK_W, BLOCK_C,
            )  # fmt: skip
            z = _mean_of_windows(
                logits, bottom, right, start, end, c, image_stride, batch, classes, height, width,
                full_h, full_w, crop_h, crop_w, stride_h, stride_w, grid_h, grid_w, scale_h,
                scale_w, BLOCK_W, BLOCK_C,
            )  # fmt: skip
            value = _mix(upper, _mix(value, z, along[:, None]), down)
        better = (value > best) & (c < classes)[None, :]  # of equal classes the first stays
        best = tl.where(better, value, best)
        label = tl.where(better, c[None, :], label)
    # Of the lanes that hold the best value, the lowest class.
    winner = tl.max(best, 1)
    label = tl.min(tl.where(best == winner[:, None], label, classes - 1), 1)
    tl.store(out + (b * out_h + row) * out_w + pixel, label.to(tl.int64), mask=pixel < out_w)
