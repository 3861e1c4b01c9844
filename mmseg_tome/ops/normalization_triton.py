"""Layer norm as Triton kernels, fused with the residual sum before it and with unmerging.

torch's own kernel gives a row to a block of threads; rows of 64 to 512 channels leave most of them
idle, and the sum before is one more pass over the tokens. Here a program holds several whole rows.

Forward reads the tokens and the update once and writes the sum and the result once; backward reads
both gradients and the sum and writes one gradient. The gradients of weight and bias are summed by
PROGRAMS programs, each over every PROGRAMS-th block of rows, and then over the programs: a fixed
order, without atomics.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2
from mmseg_tome.ops.library import by_torch, differentiable_gradient, operator
from mmseg_tome.ops.segment_triton import reduce_by

ELEMENTS = 2048
"""Elements of the rows that a program holds at once, as far as a single row is not longer."""
PROGRAMS = 528
"""Programs of the backward pass: four on each of an H100's multiprocessors."""


def _per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))


def _shapes(x, weight, bias, eps, dtype, shift):
    return torch.empty_like(x, dtype=dtype), *_per_token(x)


@operator(
    "layer_norm(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType dtype, Tensor? shift)"
    " -> (Tensor, Tensor, Tensor)",
    _shapes,
)
def layer_norm(x, weight, bias, eps, dtype, shift):
    """See `mmseg_tome.ops.normalization.layer_norm`.

    Returns:
        The result, and of each token the mean and the inverse standard deviation, `[B, N]` float32.
    """
    x = x.contiguous()
    out = torch.empty_like(x, dtype=dtype)
    return out, *_normalise(x, shift, None, weight, bias, eps, None, out)


def _add_shapes(residual, y, slot, tokens, offsets, largest, weight, bias, eps, dtype):
    total = torch.empty_like(residual, dtype=torch.promote_types(residual.dtype, y.dtype))
    return total, torch.empty_like(residual, dtype=dtype), *_per_token(residual)


@operator(
    "add_layer_norm(Tensor residual, Tensor y, Tensor? slot, Tensor? tokens, Tensor? offsets,"
    " SymInt? largest, Tensor weight, Tensor bias, float eps, ScalarType dtype)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _add_shapes,
)
def add_layer_norm(residual, y, slot, tokens, offsets, largest, weight, bias, eps, dtype):
    """See `mmseg_tome.ops.normalization.add_layer_norm`.

    Returns:
        The sum, the result, and of each token the mean and the inverse standard deviation,
        `[B, N]` float32.
    """
    residual, y = residual.contiguous(), y.contiguous()
    slot = None if slot is None else slot.contiguous()
    total = torch.empty_like(residual, dtype=torch.promote_types(residual.dtype, y.dtype))
    out = torch.empty_like(residual, dtype=dtype)
    return total, out, *_normalise(residual, y, slot, weight, bias, eps, total, out)


def _normalise(x, y, slot, weight, bias, eps, total, out) -> tuple[Tensor, Tensor]:
    """Launch; without a total, `y` is None or what is added to every token."""
    batch, tokens, channels = x.shape
    mean, inverse = _per_token(x)
    block_c, block_r, warps = _blocks(channels)
    rows = batch * tokens
    launch(
        _norm_kernel, (ceil_div(rows, block_r),), x, y, slot, weight.contiguous(),
        bias.contiguous(), total, out, mean, inverse, rows, tokens,
        1 if total is None else y.shape[1], channels,
        0 if slot is None or slot.shape[0] == 1 else tokens, eps,
        ADD=y is not None and total is not None, SHIFT=y is not None and total is None,
        GATHER=slot is not None, BLOCK_R=block_r, BLOCK_C=block_c, num_warps=warps,
    )  # fmt: skip
    return mean, inverse


def _backward_shapes(grad, grad_total, x, mean, inverse, weight):
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


@operator(
    "layer_norm_backward(Tensor grad, Tensor? grad_total, Tensor x, Tensor mean, Tensor inverse,"
    " Tensor weight) -> (Tensor, Tensor, Tensor)",
    _backward_shapes,
)
def layer_norm_backward(grad, grad_total, x, mean, inverse, weight):
    """Gradients of `layer_norm`, and of `add_layer_norm` with respect to its sum.

    Args:
        grad: Gradient of the result, `[B, N, C]`.
        grad_total: Gradient that the sum gets from elsewhere, `[B, N, C]` or None.
        x: What was normalised, `[B, N, C]`.
        mean: Of each token, `[B, N]`.
        inverse: Inverse standard deviation of each token, `[B, N]`.
        weight: `[C]`.

    Returns:
        Gradients of `x`, in its data type, of the weight and of the bias, in the weight's.
    """
    grad, x = grad.contiguous(), x.contiguous()
    grad_total = None if grad_total is None else grad_total.contiguous()
    batch, tokens, channels = x.shape
    rows = batch * tokens
    block_c, block_r, warps = _blocks(channels)
    programs = min(ceil_div(rows, block_r), PROGRAMS)
    out = torch.empty_like(x)
    partial = x.new_empty(2, programs, channels, dtype=torch.float32)
    launch(
        _norm_backward_kernel, (programs,), grad, grad_total, x, mean, inverse, weight.contiguous(),
        out, partial, rows, channels,
        ADD=grad_total is not None, BLOCK_R=block_r, BLOCK_C=block_c, num_warps=warps,
    )  # fmt: skip
    grad_weight, grad_bias = partial.sum(1).to(weight.dtype)
    return out, grad_weight, grad_bias


def _blocks(channels: int) -> tuple[int, int, int]:
    """BLOCK_C, BLOCK_R and warps: sixteen elements a thread."""
    block_c = next_power_of_2(channels)
    block_r = max(ELEMENTS // block_c, 1)
    return block_c, block_r, min(max(block_c * block_r // 512, 1), 16)


def _save(ctx, inputs, output):
    x, weight, bias, ctx.eps, ctx.dtype, _ = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])


def _gradient(ctx, grad, *_):
    x, weight, bias, mean, inverse = ctx.saved_tensors
    return *_gradients(ctx, grad, None, x, weight, bias, mean, inverse), None, None, None


def _save_add(ctx, inputs, output):
    residual, y, slot, tokens, offsets, ctx.largest, weight, bias, ctx.eps, ctx.dtype = inputs
    total, _, mean, inverse = output
    ctx.dtypes, ctx.num_slots = (residual.dtype, y.dtype), y.shape[1]
    ctx.save_for_backward(total, weight, bias, mean, inverse, slot, tokens, offsets)


def _add_gradient(ctx, grad_total, grad, *_):
    *saved, slot, tokens, offsets = ctx.saved_tensors
    grad_weight = grad_bias = None
    if grad is not None:
        grad_total, grad_weight, grad_bias = _gradients(ctx, grad, grad_total, *saved)
    grad_y = grad_total
    if slot is not None and ctx.needs_input_grad[1]:
        order = tokens, offsets, ctx.largest
        grad_y = reduce_by(grad_total, slot, *order, ctx.num_slots, False)
    grads = (g.to(dtype) for g, dtype in zip((grad_total, grad_y), ctx.dtypes, strict=True))
    return *grads, None, None, None, None, grad_weight, grad_bias, None, None


def _gradients(ctx, grad, grad_total, x, weight, bias, mean, inverse):
    """Gradients of `x`, of the weight and of the bias."""
    if not by_torch(grad, grad_total):
        return layer_norm_backward(grad, grad_total, x, mean, inverse, weight)

    def both(x, weight, bias):  # in what the kernel computes in; it takes tensors of any data types
        dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
        args = (x.to(dtype), weight.shape, weight.to(dtype), bias.to(dtype), ctx.eps)
        return x, F.layer_norm(*args).to(ctx.dtype)

    return differentiable_gradient(both, (x, weight, bias), (grad_total, grad))


layer_norm.set_gradient(_gradient, _save)
add_layer_norm.set_gradient(_add_gradient, _save_add)


@triton.jit
def _norm_kernel(
    x, y, slot, weight, bias, total, out, mean, inverse, rows, tokens, num_slots, channels,
    map_stride, eps,
    ADD: tl.constexpr, SHIFT: tl.constexpr, GATHER: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    here = row < rows
    there = here[:, None] & (c < channels)[None, :]  # [BLOCK_R, BLOCK_C]
    at = row[:, None] * channels + c[None, :]
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if SHIFT:
        value += tl.load(y + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]
    if ADD:
        source = row
        if GATHER:
            b = row // tokens
            s = tl.load(slot + b * map_stride + row - b * tokens, mask=here, other=0)
            source = b * num_slots + s
        update = tl.load(y + source[:, None] * channels + c[None, :], mask=there, other=0.0)
        # What is normalised is the sum as it is stored.
        value = (value + update.to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + at, value, mask=there)
        value = value.to(tl.float32)
    centre = tl.sum(value, 1) / channels
    value = tl.where((c < channels)[None, :], value - centre[:, None], 0.0)
    scale = 1 / tl.sqrt_rn(tl.sum(value * value, 1) / channels + eps)
    tl.store(mean + row, centre, mask=here)
    tl.store(inverse + row, scale, mask=here)
    w = tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    b = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    value = value * scale[:, None] * w[None, :] + b[None, :]
    tl.store(out + at, value.to(out.dtype.element_ty), mask=there)


@triton.jit
def _norm_backward_kernel(
    grad, grad_total, x, mean, inverse, weight, out, partial, rows, channels,
    ADD: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    c = tl.arange(0, BLOCK_C)
    used = c < channels
    w = tl.load(weight + c, mask=used, other=0.0).to(tl.float32)
    grad_w = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    grad_b = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(program * BLOCK_R, rows, programs * BLOCK_R):
        row = (first + tl.arange(0, BLOCK_R)).to(tl.int64)
        here = row < rows
        there = here[:, None] & used[None, :]
        at = row[:, None] * channels + c[None, :]
        g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        centre = tl.load(mean + row, mask=here, other=0.0)
        scale = tl.load(inverse + row, mask=here, other=0.0)
        unit = tl.where(there, (value - centre[:, None]) * scale[:, None], 0.0)
        grad_w += g * unit
        grad_b += g
        g *= w[None, :]
        along = tl.sum(g * unit, 1) / channels
        level = tl.sum(g, 1) / channels
        g = (g - level[:, None] - unit * along[:, None]) * scale[:, None]
        if ADD:
            g += tl.load(grad_total + at, mask=there, other=0.0).to(tl.float32)
        tl.store(out + at, g.to(out.dtype.element_ty), mask=there)
    at = program * channels + c
    tl.store(partial + at, tl.sum(grad_w, 0), mask=used)
    tl.store(partial + programs * channels + at, tl.sum(grad_b, 0), mask=used)
