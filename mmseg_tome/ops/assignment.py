"""From matched pairs to a slot map: the best pairs merge, every other source stays."""

import torch
from torch import Tensor

from mmseg_tome.ops.backend import current_export, use_onnx, use_triton
from mmseg_tome.ops.segment import SegmentOrder


def assign_ordered(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> tuple[Tensor, SegmentOrder | None]:
    """Merge the `r` most similar sources into their destinations (ToMe, arXiv 2210.09461, sec. 3).

    Slots count the destinations first, then the sources that stay, each in the order of `dst` and
    `src`. Of equally similar sources the lower positions merge; NaN is the lowest similarity.

    Args:
        similarity: Of each source to its nearest destination, `[B, S]`.
        nearest: That destination's position in `dst`, `[B, S]`, int64.
        r: Number of sources that merge, from 0 to S.
        src: Indices of the source tokens, `[S]`.
        dst: Indices of the destination tokens, `[D]`; every token is in exactly one of both.
        num_tokens: N, which is S + D.

    Returns:
        The slot of each token, `[B, N]`, int64 in `[0, N - r)`, and what `segment_order` gives for
        this map: right where `src` and `dst` are in ascending order each.

    Raises:
        ValueError: The shapes do not fit, or `r` is negative or larger than the number of sources.
    """
    if src.ndim != 1 or dst.ndim != 1 or src.shape[0] + dst.shape[0] != num_tokens:
        raise ValueError(
            f"sources {tuple(src.shape)} and destinations {tuple(dst.shape)} do not make "
            f"{num_tokens} tokens"
        )
    if similarity.ndim != 2 or similarity.shape[1] != src.shape[0]:
        raise ValueError(
            f"similarities {tuple(similarity.shape)} are not [B, S] of {src.shape[0]} sources"
        )
    if nearest.shape != similarity.shape:
        raise ValueError(
            f"nearest destinations {tuple(nearest.shape)} do not fit similarities "
            f"{tuple(similarity.shape)}"
        )
    if not 0 <= r <= src.shape[0]:
        raise ValueError(f"r must be between 0 and the {src.shape[0]} sources, got {r}")
    if use_triton(similarity):
        from mmseg_tome.ops import assignment_triton

        matched = (similarity, nearest, r, src, dst, num_tokens)
        slot, tokens, offsets = assignment_triton.assign_ordered(*matched)
        return slot, SegmentOrder(tokens, offsets, num_tokens)
    return assign_torch(similarity, nearest, r, src, dst), None


def assign_torch(similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor) -> Tensor:
    """`assign_ordered` in torch, and in ONNX, without the order."""
    batch, num_dst = nearest.shape[0], dst.shape[0]
    # In integers: a runtime may compute floats in half precision, which counts to 256, and CUDA has
    # no deterministic cumsum of floats. Converters for devices mix up kinds of integers.
    export = current_export()
    exact = torch.float32 if export is not None and export.executorch else torch.int64
    best = most_similar(similarity, r)
    stays = torch.ones_like(nearest, dtype=exact)
    stays = stays.scatter(1, best, torch.zeros_like(stays[:, :r]))  # [B, S], 1 or 0
    own_slot = num_dst - 1 + stays.cumsum(dim=1)
    src_slot = torch.where(stays.bool(), own_slot, nearest.to(exact))  # [B, S]
    dst_slot = torch.arange(num_dst, dtype=exact, device=dst.device).expand(batch, -1)  # [B, D]
    slot = torch.cat([dst_slot, src_slot], dim=1)
    return slot.scatter(1, torch.cat([dst, src]).expand(batch, -1), slot).long()


def most_similar(similarity: Tensor, r: int) -> Tensor:
    """Positions of the `r` largest similarities of each row, the largest first, `[B, r]`, int64."""
    if use_onnx():  # whose TopK keeps the lower of equal positions; no similarity is NaN
        return similarity.topk(r, dim=1).indices
    infinite = float("inf")
    ranked = similarity.nan_to_num(nan=-infinite, posinf=infinite, neginf=-infinite)
    # A stable sort, so that ties keep the lower index on every device.
    return ranked.argsort(dim=1, descending=True, stable=True)[:, :r]
