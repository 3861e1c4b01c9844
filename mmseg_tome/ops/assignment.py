"""From matched pairs to a slot map: the best pairs merge, every other source stays."""

import torch
from torch import Tensor

from mmseg_tome.ops import segment
from mmseg_tome.ops.twins import replaceable


@replaceable
def assign(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> Tensor:
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
        The slot of each token, `[B, N]`, int64 in `[0, N - r)`.
    """
    batch, num_dst = similarity.shape[0], dst.shape[0]
    infinite = float("inf")
    ranked = similarity.nan_to_num(nan=-infinite, posinf=infinite, neginf=-infinite)
    # A stable sort, so that ties keep the lower index on every device.
    order = ranked.argsort(dim=1, descending=True, stable=True)
    stays = torch.ones_like(nearest).scatter(1, order[:, :r], 0)  # [B, S], 1 or 0
    own_slot = num_dst - 1 + stays.cumsum(dim=1)
    src_slot = torch.where(stays.bool(), own_slot, nearest)  # [B, S]
    dst_slot = torch.arange(num_dst, device=dst.device).expand(batch, -1)  # [B, D]
    slot = nearest.new_zeros(batch, num_tokens)
    return slot.index_copy(1, dst, dst_slot).index_copy(1, src, src_slot)


def assign_ordered(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> tuple[Tensor, segment.SegmentOrder]:
    """`assign`, and the order of its map, for sources and destinations in ascending order each."""
    slot = assign(similarity, nearest, r, src, dst, num_tokens)
    return slot, segment.segment_order(slot, num_tokens - r)
