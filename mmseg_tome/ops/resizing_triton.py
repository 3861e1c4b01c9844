"""`add_resized` as one Triton kernel: no resized map is ever written.

A program owns BLOCK_W pixels of a row of the result and BLOCK_C channels. It reads `x` once, and
four neighbours of each pixel in each smaller map, which stay in the caches; it writes the sum once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2
from mmseg_tome.ops.library import operator

AT_ONCE = 3
"""Maps that one launch can add."""


@operator(
    "add_resized(Tensor x, Tensor[] maps, bool relu) -> Tensor",
    lambda x, maps, relu: torch.empty_like(x, memory_format=torch.channels_last),
)
def add_resized(x: Tensor, maps: list[Tensor], relu: bool) -> Tensor:
    """See `mmseg_tome.ops.resizing.add_resized`."""
    x = x.contiguous(memory_format=torch.channels_last)
    maps = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    for start in range(0, max(len(maps), 1), AT_ONCE):
        some = maps[start : start + AT_ONCE]
        x = _add(x, some, relu and start + AT_ONCE >= len(maps))
    return x


def _add(x: Tensor, maps: list[Tensor], relu: bool) -> Tensor:
    batch, channels, height, width = x.shape
    out = torch.empty_like(x)
    block_c = min(next_power_of_2(channels), 128)
    block_w = 2048 // block_c
    given = [*maps, *[x] * (AT_ONCE - len(maps))]
    grid = (batch * height, ceil_div(width, block_w), ceil_div(channels, block_c))
    launch(
        _add_resized_kernel, grid, x, *given, out, height, width, channels,
        *(size for m in given for size in m.shape[2:]),
        COUNT=len(maps), RELU=relu, BLOCK_W=block_w, BLOCK_C=block_c, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _position(index, size, full):
    """Where a pixel of the result lies between two of the smaller map: the two and the way."""
    at = tl.maximum((index + 0.5) * (size / full) - 0.5, 0.0)
    low = at.to(tl.int32)
    return low, tl.minimum(low + 1, size - 1), at - low


@triton.jit
def _resized(image, b, row, col, there, c, height, width, channels, full_height, full_width):
    """The pixels (row, col) of a map that is resized to the full size, `[BLOCK_W, BLOCK_C]`."""
    top, bottom, down = _position(row, height, full_height)
    left, right, along = _position(col, width, full_width)
    left = left[:, None] * channels + c[None, :]  # within a row, 32 bits are enough
    right = right[:, None] * channels + c[None, :]
    along = along[:, None]
    above = image + (b * height + top) * width * channels
    below = image + (b * height + bottom) * width * channels
    a = tl.load(above + left, mask=there, other=0.0).to(tl.float32)
    z = tl.load(below + left, mask=there, other=0.0).to(tl.float32)
    value = a + (z - a) * down
    a = tl.load(above + right, mask=there, other=0.0).to(tl.float32)
    z = tl.load(below + right, mask=there, other=0.0).to(tl.float32)
    return value + (a + (z - a) * down - value) * along


@triton.jit
def _add_resized_kernel(
    x, map0, map1, map2, out, height, width, channels, height0, width0, height1, width1, height2,
    width2,
    COUNT: tl.constexpr, RELU: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // height).to(tl.int64)
    row = tl.program_id(0) % height
    col = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (col < width)[:, None] & (c < channels)[None, :]
    at = col[:, None] * channels + c[None, :]
    x += (b * height + row) * width * channels
    out += (b * height + row) * width * channels
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if COUNT > 0:
        value += _resized(map0, b, row, col, there, c, height0, width0, channels, height, width)
    if COUNT > 1:
        value += _resized(map1, b, row, col, there, c, height1, width1, channels, height, width)
    if COUNT > 2:
        value += _resized(map2, b, row, col, there, c, height2, width2, channels, height, width)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=there)
