"""Nearest destination of each source token, by cosine similarity."""

import torch
from torch import Tensor

from mmseg_tome.ops.twins import replaceable


@replaceable
def match(metric: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """Find the most similar destination of every source (ToMe, arXiv 2210.09461, section 3).

    Args:
        metric: What similarity is measured on, `[B, N, C]`.
        src: Indices of the source tokens, `[S]`.
        dst: Indices of the destination tokens, `[D]`, D > 0.

    Returns:
        The cosine similarity of each source to its nearest destination, `[B, S]`, in float32 at
        least, and that destination's position in `dst`, `[B, S]`, int64; the lower position wins
        a tie. A token that is zero or not finite has similarity 0 to every other.
    """
    # Norms in float32 at least: squares of float16 features overflow.
    wide = torch.promote_types(metric.dtype, torch.float32)
    norm = torch.linalg.vector_norm(metric, dim=-1, keepdim=True, dtype=wide)
    # A token without a direction gives nothing but 0 and NaN here.
    unit = (metric / norm).nan_to_num(0.0).to(metric.dtype)
    scores = unit.index_select(1, src) @ unit.index_select(1, dst).transpose(1, 2)  # [B, S, D]
    similarity, nearest = scores.max(dim=-1)
    return similarity.to(wide), nearest
