"""Nearest destination of each source token, by cosine similarity."""

import torch
from torch import Tensor

from mmseg_tome.ops.backend import use_onnx, use_triton
from mmseg_tome.ops.shapes import check_tokens


def match(metric: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """Find the most similar destination of every source (ToMe, arXiv 2210.09461, section 3).

    There is no gradient.

    Args:
        metric: What similarity is measured on, `[B, N, C]`.
        src: Indices of the source tokens, `[S]`.
        dst: Indices of the destination tokens, `[D]`, D > 0.

    Returns:
        The cosine similarity of each source to its nearest destination, `[B, S]`, in float32 at
        least, and that destination's position in `dst`, `[B, S]`, int64; the lower position wins
        a tie. A token that is zero or not finite has similarity 0 to every other.

    Raises:
        ValueError: The shapes do not fit, or there is no destination.
    """
    check_tokens(metric)
    if src.ndim != 1 or dst.ndim != 1 or not dst.shape[0]:
        raise ValueError(
            f"sources and destinations must be indices, with one destination at least: got "
            f"{tuple(src.shape)} and {tuple(dst.shape)}"
        )
    metric = metric.detach()
    if use_triton(metric):
        from mmseg_tome.ops import matching_triton

        # Where torch's matrix product would take half precision, float32 may be rounded to tf32.
        return matching_triton.match(metric, src, dst, torch.is_autocast_enabled())
    return (match_onnx if use_onnx() else match_torch)(metric, src, dst)


def match_torch(metric: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """`match` in torch."""
    # Norms in float32 at least: squares of float16 features overflow.
    wide = torch.promote_types(metric.dtype, torch.float32)
    norm = torch.linalg.vector_norm(metric, dim=-1, keepdim=True, dtype=wide)
    # A token without a direction gives nothing but 0 and NaN here.
    unit = (metric / norm).nan_to_num(0.0).to(metric.dtype)
    scores = unit.index_select(1, src) @ unit.index_select(1, dst).transpose(1, 2)  # [B, S, D]
    similarity, nearest = scores.max(dim=-1)
    return similarity.to(wide), nearest


def match_onnx(metric: Tensor, src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """`match` for finite tokens. ArgMax, too, gives the lower position of a tie."""
    wide = torch.promote_types(metric.dtype, torch.float32)
    norm = metric.to(wide).square().sum(dim=-1, keepdim=True).sqrt()
    unit = (metric / norm.clamp_min(torch.finfo(wide).tiny)).to(metric.dtype)
    scores = unit.index_select(1, src) @ unit.index_select(1, dst).transpose(1, 2)  # [B, S, D]
    return scores.amax(dim=-1).to(wide), scores.argmax(dim=-1)
