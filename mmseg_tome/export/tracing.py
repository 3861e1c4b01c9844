"""Models in the form that exports: the same functions in operators that every runtime has.

While the context of `portable` or `plain_onnx` holds, in its thread a few functions of the package
run as their twins, of this file and of `ops/onnx.py`; nothing is replaced, and other threads see
nothing of it. The twins are chosen by what ONNX Runtime runs fast, and right, on a CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tome.merging import SlotMap, grid_cache
from mmseg_tome.merging.strategies import neighbour
from mmseg_tome.nets import fusion, layers
from mmseg_tome.nets.layers import Grid
from mmseg_tome.ops import assignment, attention, backend, local, matching, onnx, segment
from mmseg_tome.ops.twins import replaced

SCORES_MIB = 16
"""Attention scores of a sample that exist at a time, by default: about what a CPU can cache."""


@contextmanager
def portable(any_size: bool = False) -> Iterator[None]:
    """Trace torch operators only, for any batch, with the index maps of the grid as constants.

    The model must have run once at the size that is traced, so that the maps are in their caches.

    Args:
        any_size: Let the maps be computed of the size instead.
    """
    twins = {backend.use_triton: onnx.use_no_kernel, segment.rows: onnx.rows}
    if not any_size:
        twins[grid_cache.builds_anew] = lambda: False
    with replaced(twins):
        yield


@contextmanager
def plain_onnx(scores_mib: int = SCORES_MIB, any_size: bool = False) -> Iterator[None]:
    """As `portable`, for ONNX: no sort but top-k, no index but scatter, convolutions in NCHW.

    Args:
        scores_mib: Attention scores of a sample that may exist at a time, in MiB; 0 for all.
        any_size: As for `portable`. Neither are scores computed in parts then, nor do windows
            become poolings: both are made for one size.
    """

    def attend(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0
    ) -> Tensor:
        return attend_in_parts(q, k, v, bias, scores_mib * 2**20)

    twins = {
        matching.match: onnx.match,
        assignment.assign: onnx.assign,
        local.most_alike: onnx.most_alike,
        segment.segment_mean: onnx.segment_mean,
        layers.MixFFN.forward: mix_ffn,
        fusion.pointwise: pointwise,
    }
    if not any_size:
        twins[neighbour.window_map] = window_map
    if scores_mib and not any_size:
        twins[attention.attend] = attend
    with portable(any_size), replaced(twins):
        yield


class WindowMap(SlotMap):
    """The slot map of pooling windows, whose mean is a pooling: no sum over indices is needed."""

    hw: Grid
    stride: tuple[int, int]

    def merge(self, x: Tensor) -> Tensor:
        """Average each window, `[B, H * W, C] -> [B, M, C]`; those at the edges may be smaller."""
        grid = x.transpose(1, 2).unflatten(2, self.hw)  # [B, C, H, W]
        options = dict(ceil_mode=True, count_include_pad=False)
        return F.avg_pool2d(grid, self.stride, **options).flatten(2).transpose(1, 2)


def window_map(hw: Grid, stride: tuple[int, int], device: torch.device) -> SlotMap:
    """`neighbour.window_map`, as a `WindowMap`."""
    windows = WindowMap(*neighbour.window_map.__wrapped__(hw, stride, device))
    windows.hw, windows.stride = hw, stride
    return windows


def mix_ffn(self: nn.Module, x: Tensor, hw: Grid) -> Tensor:
    """`MixFFN.forward` in convolutions: a runtime keeps its own layout from one to the next."""
    expand, depthwise, activation, _, reduce, _ = self.layers
    x = x.transpose(1, 2).unflatten(2, hw)  # [B, C, H, W]
    x = F.conv2d(x, expand.weight, expand.bias)
    x = activation(F.conv2d(x, depthwise.weight, depthwise.bias, padding=1, groups=x.shape[1]))
    x = F.conv2d(x, reduce.weight, reduce.bias)
    return x.flatten(2).transpose(1, 2)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`fusion.pointwise` as a convolution, which runtimes fuse with the sums around it."""
    return F.conv2d(x, weight.flatten(1)[:, :, None, None], bias)


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None, limit: int) -> Tensor:
    """Attention for as many queries at a time as have scores of `limit` bytes a sample.

    ONNX Runtime fuses no attention of plain operators: all scores of a 1024x1024 image's first
    stage are 256 MiB, written and read three times. The sum over keys is not split, so the result
    is that of attention, not an approximation.

    Args:
        q: `[B, heads, M, C / heads]`.
        k: `[B, heads, L, C / heads]`.
        v: `[B, heads, L, C / heads]`.
        weights: What is added to the scores of each key, `[B, 1, 1, L]`, if anything.
        limit: In bytes.
    """
    k = (k * q.shape[-1] ** -0.5).transpose(2, 3)
    step = max(1, limit // (q.shape[1] * k.shape[3] * q.element_size()))
    parts = q.split(step, dim=2) if step < q.shape[2] else [q]
    scores = (part @ k if weights is None else part @ k + weights for part in parts)
    parts = [s.softmax(dim=-1) @ v for s in scores]
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
