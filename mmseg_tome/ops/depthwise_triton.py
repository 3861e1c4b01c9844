"""`depthwise_gelu` as Triton kernels: convolution, bias and GELU in one pass over the tokens.

A program owns 4 BLOCK_W columns and BLOCK_C channels and walks down ROWS rows of the grid. A thread
makes four columns side by side: it reads six of each row, which are read and converted 1.5 times
instead of three, and keeps the sums of the two output rows that are not complete yet in registers.
The rows to come are on their way into shared memory meanwhile; waiting for each row took longer
than all that is computed.

Backward computes the convolution anew from its input instead of keeping the values before GELU.
One launch gives their gradient and each program's share of the gradients of weight and bias, which
are summed afterwards in a fixed order; one more, the same convolution with its kernel turned by
half a turn, gives the gradient of the input.

Bytes: forward 2 B N C E, backward 5 B N C E. FLOP: 18 B N C and some 12 B N C for GELU, in float32
30, on the ordinary units; forward takes 25 instructions a value.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops.launching import ceil_div, launch
from mmseg_tome.ops.library import by_torch, differentiable_gradient, operator

BLOCKS = 16, 4, 128, 4
"""ROWS at most, BLOCK_W, BLOCK_C and warps of the convolution."""
PROGRAMS = 256
"""Programs that are enough for the convolution; for fewer, each takes fewer rows."""
AHEAD = 4
"""Stages of the convolution's loop: a row is computed while the AHEAD - 1 after it are loaded."""
GRADIENT_BLOCKS = 32, 8, 64, 4
"""The same of the gradient of the weights."""


@operator(
    "depthwise_gelu(Tensor x, Tensor weight, Tensor bias, SymInt height, SymInt width) -> Tensor",
    lambda x, *_: _like(x),
)
def depthwise_gelu(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """See `mmseg_tome.ops.depthwise.depthwise_gelu`."""
    return _convolve(x, weight, bias, (height, width))


@operator(
    "depthwise_gelu_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, SymInt height,"
    " SymInt width) -> (Tensor, Tensor, Tensor)",
    lambda grad, x, weight, bias, *_: (_like(x), _like(weight), _like(bias)),
)
def depthwise_gelu_backward(grad, x, weight, bias, height, width):
    """Gradients of `x`, of the weight and of the bias, each in the data type of what it is of.

    Args:
        grad: Gradient of the result of `depthwise_gelu`, `[B, H * W, C]`.
        x: And its arguments.
        weight: `[C, 1, 3, 3]`.
        bias: `[C]`.
        height: Of the tokens' grid.
        width: Likewise.
    """
    hw = height, width
    grad, x = grad.contiguous(), x.contiguous()
    batch, _, channels = x.shape
    rows, block_w, block_c, warps = GRADIENT_BLOCKS
    grid = (ceil_div(hw[1], block_w), ceil_div(hw[0], rows), batch)
    parts = grid[0] * grid[1] * batch
    grad_conv = torch.empty_like(x)
    partial = x.new_empty(parts, 10, channels, dtype=torch.float32)
    launch(
        _gradient_kernel, (ceil_div(channels, block_c) * grid[0], *grid[1:]), grad, x,
        weight.contiguous(), bias.contiguous(), grad_conv, partial, *hw, channels,
        ROWS=rows, BLOCK_W=block_w, BLOCK_C=block_c, num_warps=warps,
    )  # fmt: skip
    taps = partial.sum(0)  # [10, C]
    grad_weight = taps[:9].T.reshape(weight.shape).to(weight.dtype)
    return _convolve(grad_conv, weight, None, hw), grad_weight, taps[9].to(bias.dtype)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output):
    *tensors, height, width = inputs
    ctx.hw = height, width
    ctx.save_for_backward(*tensors)


def _gradient(ctx, grad):
    tensors = ctx.saved_tensors
    if not by_torch(grad):
        return *depthwise_gelu_backward(grad, *tensors, *ctx.hw), None, None

    def twin(x, weight, bias):  # in what the kernel computes in; it takes tensors of any data types
        dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
        grid = x.to(dtype).unflatten(1, ctx.hw).permute(0, 3, 1, 2)
        grid = F.conv2d(grid, weight.to(dtype), bias.to(dtype), padding=1, groups=x.shape[2])
        return F.gelu(grid).permute(0, 2, 3, 1).flatten(1, 2).to(x.dtype)

    return *differentiable_gradient(twin, tensors, (grad,)), None, None


depthwise_gelu.set_gradient(_gradient, _save)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, hw: tuple[int, int]) -> Tensor:
    """Convolution, bias and GELU; without a bias, the transposed convolution alone."""
    x = x.contiguous()
    batch, _, channels = x.shape
    out = torch.empty_like(x)
    rows, block_w, block_c, warps = BLOCKS
    across = ceil_div(channels, block_c) * ceil_div(hw[1], 4 * block_w)
    while rows > 4 and across * ceil_div(hw[0], rows) * batch < PROGRAMS:
        rows //= 2
    launch(
        _depthwise_kernel, (across, ceil_div(hw[0], rows), batch), x, weight.contiguous(),
        None if bias is None else bias.contiguous(), out, *hw, channels,
        GELU=bias is not None, ROWS=rows, BLOCK_W=block_w, BLOCK_C=block_c, AHEAD=AHEAD,
        num_warps=warps,
    )  # fmt: skip
    return out


@triton.jit
def _normal_tail(x):
    """Chance of the normal distribution beyond |x|, and exp(-x^2 / 2).

    Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: off by 1e-7 at most, with a
    third of the instructions of `erf`, which were more than the convolution's.
    """
    bell = tl.exp2(x * x * -0.7213475204444817)
    t = 1 / (1 + 0.2316418882663604 * tl.abs(x))
    poly = 0.7107068705 + t * (-0.7265760135 + t * 0.5307027145)
    return bell * t * (0.127414796 + t * (-0.142248368 + t * poly)), bell


@triton.jit
def _gelu(x):
    tail, _ = _normal_tail(x)
    return tl.maximum(x, 0.0) - tl.abs(x) * tail


@triton.jit
def _short_gelu(x):
    """GELU for results of half precision: off by 2^-13.5 of the value or by 2^-27; inf gives NaN.

    That is a third of what rounding to float16 may be off by, and a twentieth of bfloat16's. The
    logarithm of the normal distribution's tail is so smooth that a polynomial will do, without the
    division and with half of the instructions.
    """
    t = tl.abs(x)
    log2 = -0.0482381296 + t * (0.0058274990 - t * 0.00032052953)
    log2 = -1.0001205707 + t * (-1.1491769763 + t * (-0.4641193370 + t * log2))
    return tl.maximum(x, 0.0) - t * tl.exp2(log2)


@triton.jit
def _gelu_slope(x):
    tail, bell = _normal_tail(x)
    return tl.where(x < 0, tail, 1 - tail) + x * bell * 0.3989422804014327


@triton.jit
def _tap(weight, c, used, K: tl.constexpr):
    """The K-th weight of each channel's 3x3 kernel, row by row, `[1, BLOCK_C]` float32."""
    return tl.load(weight + c * 9 + K, mask=used, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _taps(weight, c, used, FIRST: tl.constexpr, STEP: tl.constexpr):
    """All nine, from the FIRST on in steps of STEP."""
    return (
        _tap(weight, c, used, FIRST),
        _tap(weight, c, used, FIRST + STEP),
        _tap(weight, c, used, FIRST + 2 * STEP),
        _tap(weight, c, used, FIRST + 3 * STEP),
        _tap(weight, c, used, FIRST + 4 * STEP),
        _tap(weight, c, used, FIRST + 5 * STEP),
        _tap(weight, c, used, FIRST + 6 * STEP),
        _tap(weight, c, used, FIRST + 7 * STEP),
        _tap(weight, c, used, FIRST + 8 * STEP),
    )


@triton.jit
def _row(x, row, pitch, at, mask, height):
    """Row `row` of the grid, `pitch` elements long, where the mask is; 0 above and below it."""
    inside = mask & (row >= 0) & (row < height)
    return tl.load(x + row * pitch + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _six(x, at, channels, m0, m1, m2, m3, m4, m5, inside):
    """A row at the column before, at four columns and at the one behind; 0 where a mask is not."""
    return (
        tl.load(x + (at - channels), mask=m0 & inside, other=0.0),
        tl.load(x + at, mask=m1 & inside, other=0.0),
        tl.load(x + (at + channels), mask=m2 & inside, other=0.0),
        tl.load(x + (at + 2 * channels), mask=m3 & inside, other=0.0),
        tl.load(x + (at + 3 * channels), mask=m4 & inside, other=0.0),
        tl.load(x + (at + 4 * channels), mask=m5 & inside, other=0.0),
    )


@triton.jit
def _add(s0, s1, s2, s3, x0, x1, x2, x3, x4, x5, left, mid, right):
    """The sums of four columns and what a row of six adds to them by a row of the 3x3 kernel."""
    x0, x1, x2 = x0.to(tl.float32), x1.to(tl.float32), x2.to(tl.float32)
    x3, x4, x5 = x3.to(tl.float32), x4.to(tl.float32), x5.to(tl.float32)
    return (
        s0 + x0 * left + x1 * mid + x2 * right,
        s1 + x1 * left + x2 * mid + x3 * right,
        s2 + x2 * left + x3 * mid + x4 * right,
        s3 + x3 * left + x4 * mid + x5 * right,
    )


@triton.jit
def _store(out, value, mask, GELU: tl.constexpr):
    if GELU:
        value = _gelu(value) if out.dtype.element_ty == tl.float32 else _short_gelu(value)
    tl.store(out, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _depthwise_kernel(
    x, weight, bias, out, height, width, channels,
    GELU: tl.constexpr, ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    blocks_c = tl.cdiv(channels, BLOCK_C)
    c = tl.program_id(0) % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    col = (tl.program_id(0) // blocks_c * BLOCK_W + tl.arange(0, BLOCK_W)) * 4
    first = tl.program_id(1) * ROWS
    # Offsets within a row are the same for all rows and fit 32 bits.
    pitch = tl.full((), 1, tl.int64) * width * channels
    at = col[:, None] * channels + c[None, :]  # [BLOCK_W, BLOCK_C]
    used = (c < channels)[None, :]
    m0 = used & ((col > 0) & (col <= width))[:, None]
    m1, m2 = used & (col < width)[:, None], used & (col + 1 < width)[:, None]
    m3, m4 = used & (col + 2 < width)[:, None], used & (col + 3 < width)[:, None]
    m5 = used & (col + 4 < width)[:, None]
    x += (tl.program_id(2) * height + first - 1) * pitch
    out += (tl.program_id(2) * height + first) * pitch
    # Turned by half a turn, a kernel's taps stand in reverse order.
    FIRST: tl.constexpr = 0 if GELU else 8
    STEP: tl.constexpr = 1 if GELU else -1
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = _taps(weight, c, c < channels, FIRST, STEP)
    if GELU:
        b = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    else:
        b = tl.zeros((1, BLOCK_C), tl.float32)

    # What the rows above the next output row, and above the one after it, contribute to them.
    x0, x1, x2, x3, x4, x5 = _six(x, at, channels, m0, m1, m2, m3, m4, m5, first > 0)
    s0, s1, s2, s3 = _add(b, b, b, b, x0, x1, x2, x3, x4, x5, w0, w1, w2)
    x += pitch
    x0, x1, x2, x3, x4, x5 = _six(x, at, channels, m0, m1, m2, m3, m4, m5, first < height)
    s0, s1, s2, s3 = _add(s0, s1, s2, s3, x0, x1, x2, x3, x4, x5, w3, w4, w5)
    t0, t1, t2, t3 = _add(b, b, b, b, x0, x1, x2, x3, x4, x5, w0, w1, w2)
    for row in tl.range(first + 1, min(first + ROWS, height) + 1, num_stages=AHEAD):
        x += pitch
        x0, x1, x2, x3, x4, x5 = _six(x, at, channels, m0, m1, m2, m3, m4, m5, row < height)
        s0, s1, s2, s3 = _add(s0, s1, s2, s3, x0, x1, x2, x3, x4, x5, w6, w7, w8)
        _store(out + at, s0, m1, GELU)
        _store(out + (at + channels), s1, m2, GELU)
        _store(out + (at + 2 * channels), s2, m3, GELU)
        _store(out + (at + 3 * channels), s3, m4, GELU)
        out += pitch
        s0, s1, s2, s3 = _add(t0, t1, t2, t3, x0, x1, x2, x3, x4, x5, w3, w4, w5)
        t0, t1, t2, t3 = _add(b, b, b, b, x0, x1, x2, x3, x4, x5, w0, w1, w2)


@triton.jit
def _gradient_kernel(
    grad, x, weight, bias, grad_conv, partial, height, width, channels,
    ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    blocks_c = tl.cdiv(channels, BLOCK_C)
    c = tl.program_id(0) % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    block_w = tl.program_id(0) // blocks_c
    col = block_w * BLOCK_W + tl.arange(0, BLOCK_W)
    first = tl.program_id(1) * ROWS
    used = c < channels
    # Offsets within a row are the same for all rows and fit 32 bits.
    pitch = tl.full((), 1, tl.int64) * width * channels
    at = col[:, None] * channels + c[None, :]  # [BLOCK_W, BLOCK_C]
    there = (col < width)[:, None] & used[None, :]
    on_left = there & (col > 0)[:, None]
    on_right = (col < width - 1)[:, None] & used[None, :]
    x += tl.program_id(2) * height * pitch
    grad += tl.program_id(2) * height * pitch
    grad_conv += tl.program_id(2) * height * pitch
    b = tl.load(bias + c, mask=used, other=0.0).to(tl.float32)[None, :]
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = _taps(weight, c, used, 0, 1)
    nothing = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    g0, g1, g2, g3, g4 = nothing, nothing, nothing, nothing, nothing
    g5, g6, g7, g8, gb = nothing, nothing, nothing, nothing, nothing
    # The three rows around the output row, each at the columns before, at and behind its own.
    x0 = _row(x, first - 1, pitch, at - channels, on_left, height)
    x1 = _row(x, first - 1, pitch, at, there, height)
    x2 = _row(x, first - 1, pitch, at + channels, on_right, height)
    x3 = _row(x, first, pitch, at - channels, on_left, height)
    x4 = _row(x, first, pitch, at, there, height)
    x5 = _row(x, first, pitch, at + channels, on_right, height)
    for row in range(first, min(first + ROWS, height)):
        x6 = _row(x, row + 1, pitch, at - channels, on_left, height)
        x7 = _row(x, row + 1, pitch, at, there, height)
        x8 = _row(x, row + 1, pitch, at + channels, on_right, height)
        value = b + x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3 + x4 * w4
        value += x5 * w5 + x6 * w6 + x7 * w7 + x8 * w8
        g = tl.load(grad + row * pitch + at, mask=there, other=0.0).to(tl.float32)
        g *= _gelu_slope(value)
        tl.store(grad_conv + row * pitch + at, g.to(grad_conv.dtype.element_ty), mask=there)
        g0, g1, g2 = g0 + g * x0, g1 + g * x1, g2 + g * x2
        g3, g4, g5 = g3 + g * x3, g4 + g * x4, g5 + g * x5
        g6, g7, g8 = g6 + g * x6, g7 + g * x7, g8 + g * x8
        gb += g
        x0, x1, x2 = x3, x4, x5
        x3, x4, x5 = x6, x7, x8
    part = tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
    part = part * tl.cdiv(width, BLOCK_W) + block_w
    to = partial + part.to(tl.int64) * 10 * channels + c
    tl.store(to, tl.sum(g0, 0), mask=used)
    tl.store(to + channels, tl.sum(g1, 0), mask=used)
    tl.store(to + 2 * channels, tl.sum(g2, 0), mask=used)
    tl.store(to + 3 * channels, tl.sum(g3, 0), mask=used)
    tl.store(to + 4 * channels, tl.sum(g4, 0), mask=used)
    tl.store(to + 5 * channels, tl.sum(g5, 0), mask=used)
    tl.store(to + 6 * channels, tl.sum(g6, 0), mask=used)
    tl.store(to + 7 * channels, tl.sum(g7, 0), mask=used)
    tl.store(to + 8 * channels, tl.sum(g8, 0), mask=used)
    tl.store(to + 9 * channels, tl.sum(gb, 0), mask=used)
