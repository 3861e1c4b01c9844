"""Layer norm as Triton kernels, fused with the residual sum before it and with unmerging.

torch's own kernel gives a row to a block of threads; rows of 64 to 512 channels leave most of them
idle, and the sum before is one more pass over the tokens. Here a program holds several whole rows.

Forward reads the tokens and the update once and writes the sum and the result once; backward reads
both gradients and the sum and writes one gradient. The gradients of weight and bias are summed by
PROGRAMS programs, each over every PROGRAMS-th block of rows, and then over the programs: a fixed
order, without atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2

ELEMENTS = 2048
"""Elements of the rows that a program holds at once, as far as a single row is not longer."""
PROGRAMS = 528
"""Programs of the backward pass: four on each of an H100's multiprocessors."""


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `mmseg_tome.ops.normalization.layer_norm`.

    Returns:
        The result, and of each token the mean and the inverse standard deviation, `[B, N]` float32.
    """
    x = x.contiguous()
    out = torch.empty_like(x, dtype=dtype)
    return out, *_normalise(x, shift, None, weight, bias, eps, None, out)


def add_layer_norm(
    residual: Tensor,
    y: Tensor,
    slot: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    mean, inverse = (x.new_empty(batch, tokens, dtype=torch.float32) for _ in range(2))
    block_c, block_r, warps = _blocks(channels)
    rows = batch * tokens
    launch(
        _norm_kernel,
        (ceil_div(rows, block_r),),
        x,
        y,
        slot,
        weight.contiguous(),
        bias.contiguous(),
        total,
        out,
        mean,
        inverse,
        rows,
        tokens,
        1 if total is None else y.shape[1],
        channels,
        0 if slot is None or slot.shape[0] == 1 else tokens,
        eps,
        ADD=y is not None and total is not None,
        SHIFT=y is not None and total is None,
        GATHER=slot is not None,
        BLOCK_R=block_r,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    return mean, inverse


def layer_norm_backward(
    grad: Tensor,
    grad_total: Tensor | None,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
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
        _norm_backward_kernel,
        (programs,),
        grad,
        grad_total,
        x,
        mean,
        inverse,
        weight.contiguous(),
        out,
        partial,
        rows,
        channels,
        ADD=grad_total is not None,
        BLOCK_R=block_r,
        BLOCK_C=block_c,
        num_warps=warps,
    )
    grad_weight, grad_bias = partial.sum(1).to(weight.dtype)
    return out, grad_weight, grad_bias


def _blocks(channels: int) -> tuple[int, int, int]:
    """BLOCK_C, BLOCK_R and warps: sixteen elements a thread."""
    block_c = next_power_of_2(channels)
    block_r = max(ELEMENTS // block_c, 1)
    return block_c, block_r, min(max(block_c * block_r // 512, 1), 16)


@triton.jit
def _norm_kernel(
    x,
    y,
    slot,
    weight,
    bias,
    total,
    out,
    mean,
    inverse,
    rows,
    tokens,
    num_slots,
    channels,
    map_stride,
    eps,
    ADD: tl.constexpr,
    SHIFT: tl.constexpr,
    GATHER: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
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
    grad,
    grad_total,
    x,
    mean,
    inverse,
    weight,
    out,
    partial,
    rows,
    channels,
    ADD: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
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
