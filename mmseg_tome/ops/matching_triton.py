"""`match` as Triton kernels: cosine similarity and arg-max without a score matrix in memory.

Two launches. The first takes the inverse norms of the destinations, so that the second does
nothing per pair but multiply and compare. A program of the second holds a block of sources, loops
over blocks of destinations and keeps the running maximum of each source.

Per sample, with E bytes an element: 2 S D C FLOP; S C E + D C E bytes from memory, once the
destinations are in the L2 cache, and (BLOCK_S + BLOCK_D) C E bytes from L2 for each block of pairs.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmseg_tome.ops.launching import ceil_div, launch, next_power_of_2
from mmseg_tome.ops.library import operator

NORM_BLOCK = 4096
"""Elements that a program of the norm kernel holds at once."""


def _shapes(metric, src, dst, tf32):
    shape = (metric.shape[0], src.shape[0])
    return metric.new_empty(shape, dtype=torch.float32), src.new_empty(shape)


@operator("match(Tensor metric, Tensor src, Tensor dst, bool tf32) -> (Tensor, Tensor)", _shapes)
def match(metric: Tensor, src: Tensor, dst: Tensor, tf32: bool) -> tuple[Tensor, Tensor]:
    """See `mmseg_tome.ops.matching.match`; the metric may be float32, float16 or bfloat16.

    Args:
        metric: `[B, N, C]`.
        src: `[S]`, int64.
        dst: `[D]`, int64.
        tf32: Whether products of float32 inputs may be rounded to 10 bits of mantissa.
    """
    if metric.dtype == torch.bfloat16 and not isinstance(_match_kernel, triton.JITFunction):
        metric = metric.float()  # Triton's interpreter multiplies the bits of bfloat16 as integers
    metric, src, dst = metric.contiguous(), src.contiguous(), dst.contiguous()
    batch, tokens, channels = metric.shape
    num_src, num_dst = src.shape[0], dst.shape[0]
    inverse_norm = metric.new_empty(batch, num_dst, dtype=torch.float32)
    similarity = metric.new_empty(batch, num_src, dtype=torch.float32)
    nearest = src.new_empty(batch, num_src)

    block_c = min(next_power_of_2(channels), 128)
    block_rows = NORM_BLOCK // block_c
    grid = (ceil_div(num_dst, block_rows), batch)
    launch(
        _inverse_norm_kernel, grid, metric, dst, inverse_norm, tokens, num_dst, channels,
        BLOCK_R=block_rows, BLOCK_C=block_c,
    )  # fmt: skip

    on_cuda = torch.version.hip is None
    tf32 = metric.dtype == torch.float32 and on_cuda and (tf32 or _tf32_is_allowed())
    exact = metric.dtype == torch.float32 and not tf32
    block_s, block_d, block_c, warps = _blocks(
        batch, num_src, num_dst, metric.element_size(), exact, _shared_memory(metric.device)
    )
    grid = (ceil_div(num_src, block_s), batch)
    launch(
        _match_kernel, grid, metric, src, dst, inverse_norm, similarity, nearest, tokens, num_src,
        num_dst, channels,
        BLOCK_S=block_s, BLOCK_D=block_d, BLOCK_C=block_c,
        # Three products of rounded numbers and their remainders are as exact as one of float32, and
        # need a fraction of its time: matrix units have no other way.
        PRECISION="tf32" if tf32 else "tf32x3" if on_cuda else "ieee", num_warps=warps,
        num_stages=3,
        # Two programs a multiprocessor, one's loads behind the other's products.
        **(dict(maxnreg=128) if on_cuda and block_s == block_d == 128 else {}),
    )  # fmt: skip
    return similarity, nearest


def _tf32_is_allowed() -> bool:
    """Whether torch's own matrix products of float32 may be rounded."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # torch 2.9 on; allow_tf32 may raise beside it
        return matmul.fp32_precision == "tf32"
    return matmul.allow_tf32


def _blocks(
    batch: int, num_src: int, num_dst: int, size: int, exact: bool, shared_memory: int
) -> tuple[int, int, int, int]:
    """BLOCK_S, BLOCK_D, BLOCK_C and warps.

    Large blocks read less from L2: 128 x 128 reads a byte per 64 FLOP in half precision. They need
    enough sources to give each of about 100 multiprocessors a program; with fewer, many
    destinations at a time take the place of many sources. Three stages take
    3 * (128 + 128) * 128 bytes = 96 KiB of shared memory, as much as GPUs of compute capability 8.6
    give a program; 128 x 256 takes 144 KiB, and pays where there are many destinations. Exact
    float32 takes three products of numbers split in registers: larger blocks would spill.
    """
    if exact:
        return 64, 64, 32, 4
    block_c = 128 // size
    is_large = shared_memory >= 160 * 1024
    if batch * num_src < 100 * 128:
        if num_dst >= 256 and is_large:
            return 64, 256, block_c, 8
        return 64, 128 if num_dst > 64 else 64 if num_dst > 32 else 32, block_c, 4
    if num_dst >= 512 and is_large:
        return 128, 256, block_c, 8
    return 128, 128 if num_dst > 64 else 64, block_c, 8


@functools.cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program can have; 0 if not known."""
    if device.type != "cuda":
        return 0
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)


@triton.jit
def _inverse_norm_kernel(
    metric, rows, inverse_norm, tokens, num_rows, channels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """1 / |metric[b, rows[i]]|, or 0 where the norm is 0 or not finite."""
    b = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    row = tl.load(rows + r, mask=r < num_rows, other=0)
    first = metric + (b * tokens + row) * channels  # [BLOCK_R]
    square = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for c0 in range(0, channels, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        x = tl.load(first[:, None] + c[None, :], mask=(c < channels)[None, :], other=0.0)
        x = x.to(tl.float32)
        square += x * x
    tl.store(inverse_norm + b * num_rows + r, inverse_root(tl.sum(square, 1)), mask=r < num_rows)


@triton.jit
def inverse_root(square):
    """1 / sqrt of sums of squares; 0 where they are 0, infinite or not a number."""
    usable = (square > 0) & (square < float("inf"))
    return tl.where(usable, 1 / tl.sqrt_rn(tl.where(usable, square, 1.0)), 0.0)


@triton.jit
def _match_kernel(
    metric, src, dst, inverse_norm, similarity, nearest, tokens, num_src, num_dst, channels,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    metric += b * tokens * channels
    inverse_norm += b * num_dst
    s = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    # Rows past the end read token 0 and are not stored: no mask on rows in the loop.
    src_row = metric + tl.load(src + s, mask=s < num_src, other=0) * channels  # [BLOCK_S]
    best = tl.full((BLOCK_S,), float("-inf"), tl.float32)
    best_d = tl.zeros((BLOCK_S,), tl.int32)
    for d0 in range(0, num_dst, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        dst_row = metric + tl.load(dst + d, mask=d < num_dst, other=0) * channels
        dot = tl.zeros((BLOCK_S, BLOCK_D), tl.float32)
        for c0 in range(0, channels, BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            used = (c < channels)[None, :]
            x = tl.load(src_row[:, None] + c[None, :], mask=used, other=0.0)
            y = tl.load(dst_row[:, None] + c[None, :], mask=used, other=0.0)
            dot = tl.dot(x, tl.trans(y), dot, input_precision=PRECISION)
        inverse = tl.load(inverse_norm + d, mask=d < num_dst, other=0.0)[None, :]
        # A destination without a direction scores 0, one past the end never wins.
        otherwise = tl.where(d < num_dst, 0.0, float("-inf"))[None, :]
        score = tl.where(inverse > 0, dot * inverse, otherwise)
        # A source that is not a number has no maximum: it keeps position 0 and is set to 0 below.
        top = tl.max(score, 1)
        top_d = tl.min(tl.where(score == top[:, None], d[None, :], num_dst), 1)
        better = top > best
        best_d = tl.where(better, top_d, best_d)
        best = tl.where(better, top, best)
    square = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    for c0 in range(0, channels, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        x = tl.load(src_row[:, None] + c[None, :], mask=(c < channels)[None, :], other=0.0)
        x = x.to(tl.float32)
        square += x * x
    inverse = inverse_root(tl.sum(square, 1))
    out = b * num_src + s
    tl.store(similarity + out, tl.where(inverse > 0, best * inverse, 0.0), mask=s < num_src)
    tl.store(nearest + out, tl.where(inverse > 0, best_d, 0).to(tl.int64), mask=s < num_src)
