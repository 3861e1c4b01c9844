"""The twins of operations that ONNX has operators for; they run in every ONNX export.

No sort but top-k, no index but scatter, no look at the batch. They are chosen by what ONNX Runtime
runs fast, and right, on a CPU.
"""

import torch
from torch import Tensor

from mmseg_tome.ops import assignment, backend, local, matching, segment
from mmseg_tome.ops.twins import onnx_twin_of


@onnx_twin_of(backend.use_triton)
def use_no_kernel(*_: Tensor) -> bool:
    """A kernel is no operator of ONNX."""
    return False


@onnx_twin_of(matching.match)
def match(metric: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """`ops.matching.match` for finite tokens. ArgMax, too, gives the lower position of a tie."""
    wide = torch.promote_types(metric.dtype, torch.float32)
    norm = metric.to(wide).square().sum(dim=-1, keepdim=True).sqrt()
    unit = (metric / norm.clamp_min(torch.finfo(wide).tiny)).to(metric.dtype)
    scores = unit.index_select(1, src) @ unit.index_select(1, dst).transpose(1, 2)  # [B, S, D]
    return scores.amax(dim=-1).to(wide), scores.argmax(dim=-1)


@onnx_twin_of(assignment.assign)
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


@onnx_twin_of(local.most_alike)
def most_alike(similarity: Tensor, r: int) -> Tensor:
    """`ops.local.most_alike` for numbers. TopK keeps the lower of equal positions."""
    return similarity.topk(r, dim=1).indices


@onnx_twin_of(segment.segment_mean)
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


@onnx_twin_of(segment.rows)
def rows(slot: Tensor, num_slots: int, batch: int) -> Tensor:
    """`ops.segment.rows` without a look at the batch: `[B or 1, N] -> [B * N]`."""
    offset = torch.arange(batch, device=slot.device)[:, None] * num_slots
    return (slot + offset).reshape(-1)
