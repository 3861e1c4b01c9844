"""Models in the form that exports: the same functions in operators that every runtime has.

While the context of `portable` or `plain_onnx` holds, a few functions of the package are replaced
by twins of this file. Outside of an export nothing changes. The twins are chosen by what ONNX
Runtime runs fast, and right, on a CPU.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tome.merging import SlotMap, grid_cache
from mmseg_tome.merging.strategies import neighbour
from mmseg_tome.models import attention, fusion, layers
from mmseg_tome.models.layers import Grid
from mmseg_tome.ops import assignment, backend, matching, segment

SCORES_MIB = 16
"""Attention scores of a sample that exist at a time, by default: about what a CPU can cache."""

_window_map = neighbour.window_map


@contextmanager
def portable() -> Iterator[None]:
    """Trace torch operators only, for any batch, with the index maps of the grid as constants.

    The model must have run once at the size that is traced, so that the maps are in their caches.
    """
    before = backend.get_backend()
    backend.set_backend("torch")
    try:
        with _replaced(grid_cache, is_compiling=lambda: False), _replaced(segment, _rows=rows):
            yield
    finally:
        backend.set_backend(before)


@contextmanager
def plain_onnx(scores_mib: int = SCORES_MIB) -> Iterator[None]:
    """As `portable`, for ONNX: no sort but top-k, no index but scatter, convolutions in NCHW.

    Args:
        scores_mib: Attention scores of a sample that may exist at a time, in MiB; 0 for all.
    """

    def attend(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
    ) -> Tensor:
        return attend_in_parts(q, k, v, attn_mask, scores_mib * 2**20)

    with ExitStack() as stack:
        enter = stack.enter_context
        enter(portable())
        enter(_replaced(matching, match=match))
        enter(_replaced(assignment, assign=assign))
        enter(_replaced(segment, segment_mean=segment_mean))
        enter(_replaced(neighbour, window_map=window_map))
        enter(_replaced(layers.MixFFN, forward=mix_ffn))
        for user in _modules_with("pointwise", fusion.pointwise):
            enter(_replaced(user, pointwise=pointwise))
        if scores_mib:
            enter(_replaced(attention, F=SimpleNamespace(scaled_dot_product_attention=attend)))
        yield


def match(metric: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """`ops.matching.match` for finite tokens. ArgMax, too, gives the lower position of a tie."""
    wide = torch.promote_types(metric.dtype, torch.float32)
    norm = metric.to(wide).square().sum(dim=-1, keepdim=True).sqrt()
    unit = (metric / norm.clamp_min(torch.finfo(wide).tiny)).to(metric.dtype)
    scores = unit.index_select(1, src) @ unit.index_select(1, dst).transpose(1, 2)  # [B, S, D]
    return scores.amax(dim=-1).to(wide), scores.argmax(dim=-1)


def assign(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> Tensor:
    """`ops.assignment.assign`. ONNX's TopK keeps the lower of equal positions, as a stable sort."""
    batch, num_dst = similarity.shape[0], dst.shape[0]
    merged = similarity.topk(r, dim=1).indices
    stays = torch.ones_like(nearest).scatter(1, merged, torch.zeros_like(merged))  # [B, S], 1 or 0
    own_slot = num_dst - 1 + stays.cumsum(dim=1)
    src_slot = torch.where(stays.bool(), own_slot, nearest)  # [B, S]
    dst_slot = torch.arange(num_dst, device=dst.device).expand(batch, -1)  # [B, D]
    slot = torch.zeros(batch, num_tokens, dtype=torch.int64, device=dst.device)
    slot = slot.scatter(1, dst.expand(batch, -1), dst_slot)
    return slot.scatter(1, src.expand(batch, -1), src_slot)


def segment_mean(x: Tensor, slot: Tensor, num_slots: int) -> Tensor:
    """`ops.segment.segment_mean` by ScatterElements, which adds one token after the other.

    ScatterND, which takes whole rows, looks faster, but ONNX Runtime lets several threads add to
    one row at a time there and loses sums (its issues 18048 and 23396; seen with 1.32 as well).
    """
    batch, _, channels = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    index = slot[:, :, None].expand(batch, -1, channels)
    total = torch.zeros(batch, num_slots, channels, dtype=wide, device=x.device)
    total = total.scatter_add(1, index, x.to(wide))
    count = torch.zeros(slot.shape[0], num_slots, dtype=wide, device=x.device)
    count = count.scatter_add(1, slot, torch.ones_like(slot, dtype=wide))
    return (total / count[:, :, None]).to(x.dtype)


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
    windows = WindowMap(*_window_map(hw, stride, device))
    windows.hw, windows.stride = hw, stride
    return windows


def rows(slot: Tensor, num_slots: int, batch: int) -> Tensor:
    """`ops.segment._rows` without a look at the batch: `[B or 1, N] -> [B * N]`."""
    offset = torch.arange(batch, device=slot.device)[:, None] * num_slots
    return (slot + offset).reshape(-1)


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


@contextmanager
def _replaced(owner: ModuleType | type, **twins: Callable) -> Iterator[None]:
    """Attributes of a module or class are others, within the context."""
    before = {name: getattr(owner, name) for name in twins}
    for name, twin in twins.items():
        setattr(owner, name, twin)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


def _modules_with(name: str, function: Callable) -> list[ModuleType]:
    """Modules of the package's models, as far as they are imported, that hold `function`."""
    ours = [m for key, m in sys.modules.items() if key.startswith("mmseg_tome.models.")]
    return [module for module in ours if getattr(module, name, None) is function]
