"""The peer pipeline: stock mmseg attention with tomesd merging, as SegFormer++'s authors run it.

Everything that is not merging is the stock MMSegmentation model, so attention matrices are
materialised (``nn.MultiheadAttention`` with its default ``need_weights=True``); the fused peer is
the same but for that. The preset table is written out here a second time on purpose: a mistake in
the package's own table then shows up as a difference between the two pipelines instead of being
copied into both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmseg.models.backbones.mit import EfficientMultiheadAttention, MixVisionTransformer
from mmseg.models.utils import nchw_to_nlc, nlc_to_nchw
from torch import Tensor, nn

from mmseg_tome.merging import STRATEGIES, MergingStrategy, parse_tome_cfg, split_auto


class Merge(NamedTuple):
    """One merger of the peer.

    ``mode`` is bsm (bipartite), n2d or n1d; ``ratio`` the fraction of tokens that bsm removes;
    ``stride`` (sy, sx) in tokens, for n1d (1, length of a run).
    """

    mode: str
    ratio: float = 0.0
    stride: tuple[int, int] = (2, 2)


class StageMerges(NamedTuple):
    """What merges in one stage of the backbone: queries, keys/values, or neither."""

    q: Merge | None = None
    kv: Merge | None = None


_HQ_KV, _FAST_KV = Merge("bsm", 0.6, (2, 2)), Merge("bsm", 0.9, (4, 4))
_HQ_Q, _FAST_Q = Merge("bsm", 0.8, (4, 4)), Merge("bsm", 0.9, (4, 4))
PRESETS: dict[str, tuple[StageMerges, ...]] = {
    "hq": (StageMerges(kv=_HQ_KV),) * 2 + (StageMerges(q=_HQ_Q),) * 2,
    "fast": (StageMerges(kv=_FAST_KV),) * 2 + (StageMerges(q=_FAST_Q),) * 2,
    "n2d": (StageMerges(q=Merge("n2d")),) * 4,
}


def stages_of(tome_cfg: str | list | None, num_stages: int) -> tuple[StageMerges, ...]:
    """The peer's mergers for a ``tome_cfg``: a preset's name, None, or one dict per stage.

    Raises:
        ValueError: the setting cannot be read, or holds a strategy that the peer does not have.
    """
    if isinstance(tome_cfg, str) and tome_cfg in PRESETS:
        return PRESETS[tome_cfg]
    if split_auto(tome_cfg)[1]:
        raise ValueError("the peer pipeline merges in every stage, it does not choose")
    stages = parse_tome_cfg(tome_cfg, num_stages)
    if any(stage.reuse > 1 for stage in stages):
        raise ValueError("the peer pipeline matches in every block, it has no reuse")
    if any(stage.proportional for stage in stages):
        raise ValueError("the peer pipeline counts every merged key once")
    return tuple(StageMerges(_merge_of(stage.q), _merge_of(stage.kv)) for stage in stages)


def _merge_of(strategy: MergingStrategy) -> Merge | None:
    mode = next(name for name, cls in STRATEGIES.items() if type(strategy) is cls)
    if mode == "none":
        return None
    if mode not in ("bsm", "n2d", "n1d"):
        raise ValueError(f"the peer pipeline has no merging mode {mode!r}")
    stride = strategy.stride if mode != "n1d" else (1, strategy.stride)
    return Merge(mode, getattr(strategy, "ratio", 0.0), tuple(stride))


Step = Callable[[Tensor], Tensor]
Grid = tuple[int, int]
"""Rows and columns of a token grid, (H, W)."""


def _identity(x: Tensor) -> Tensor:
    return x


def make_merger(spec: Merge | None, x: Tensor, hw: Grid) -> tuple[Step, Step]:
    """The functions merge ``[B, N, C] -> [B, M, C]`` and unmerge ``[B, M, C] -> [B, N, C]``.

    ``x`` is ``[B, N, C]`` with ``N = H * W`` tokens and doubles as the metric. Where a grid is
    smaller than one cell, tomesd fails; nothing merges there, as in our own pipeline.
    """
    if spec is None:
        return _identity, _identity
    (h, w), (sy, sx) = hw, spec.stride
    if spec.mode == "n2d":

        def merge(t: Tensor) -> Tensor:
            return nchw_to_nlc(F.avg_pool2d(nlc_to_nchw(t, hw), (sy, sx), ceil_mode=True))

        def unmerge(t: Tensor) -> Tensor:
            small = nlc_to_nchw(t, (-(-h // sy), -(-w // sx)))
            return nchw_to_nlc(F.interpolate(small, size=hw, mode="nearest"))

        return merge, unmerge
    if spec.mode == "n1d":

        def merge(t: Tensor) -> Tensor:
            return F.avg_pool1d(t.transpose(1, 2), sx, ceil_mode=True).transpose(1, 2)

        def unmerge(t: Tensor) -> Tensor:
            return F.interpolate(t.transpose(1, 2), size=h * w, mode="nearest").transpose(1, 2)

        return merge, unmerge
    if h < sy or w < sx:
        return _identity, _identity
    from tomesd.merge import bipartite_soft_matching_random2d

    r = int(h * w * spec.ratio)
    return bipartite_soft_matching_random2d(x, w, h, sx, sy, r, no_rand=True)


class PeerAttention(EfficientMultiheadAttention):
    """Stock SegFormer attention with the authors' merging around it.

    Keys/values merge after the spatial reduction and its norm, queries before the attention; the
    queries' output is unmerged before the residual, which always uses the full grid.
    """

    stage = StageMerges()

    def forward(self, x: Tensor, hw_shape: Grid, identity: Tensor | None = None) -> Tensor:
        """``x`` and the result are ``[B, H * W, C]``."""
        x_kv, hw_kv = x, tuple(hw_shape)
        if self.sr_ratio > 1:
            x_kv = self.sr(nlc_to_nchw(x, hw_shape))  # [B, C, H / sr, W / sr]
            hw_kv = tuple(x_kv.shape[2:])
            x_kv = self.norm(nchw_to_nlc(x_kv))
        merge_kv, _ = make_merger(self.stage.kv, x_kv, hw_kv)
        merge_q, unmerge_q = make_merger(self.stage.q, x, tuple(hw_shape))
        # nn.MultiheadAttention is sequence-first here, exactly as in the stock module.
        q, kv = merge_q(x).transpose(0, 1), merge_kv(x_kv).transpose(0, 1)
        out = self.attn(query=q, key=kv, value=kv)[0].transpose(0, 1)  # [B, M, C]
        out = unmerge_q(out)
        return (x if identity is None else identity) + self.dropout_layer(self.proj_drop(out))


def add_merging(
    backbone: MixVisionTransformer, tome_cfg: str | list | None
) -> MixVisionTransformer:
    """Let a stock backbone merge: its modules, weights and keys stay, attention's forward changes.

    With nothing to merge a block stays untouched stock code. Raises what `stages_of` does.
    """
    stages = stages_of(tome_cfg, backbone.num_stages)
    for (_, blocks, _), stage in zip(backbone.layers, stages, strict=True):
        if stage != StageMerges():
            for block in blocks:
                block.attn.__class__ = PeerAttention
                block.attn.stage = stage
    return backbone


class FusedMultiheadAttention(nn.MultiheadAttention):
    """torch's attention without its weights as a result, so that no matrix of them is made."""

    def forward(self, *args, **kwargs) -> tuple[Tensor, None]:
        """As `nn.MultiheadAttention`, which calls `scaled_dot_product_attention` then."""
        return super().forward(*args, **kwargs, need_weights=False)


def fuse_attention(backbone: MixVisionTransformer) -> MixVisionTransformer:
    """Let a stock backbone, merging or not, compute attention without materialising its matrices.

    The code around it stays, so this is the peer's speed if one argument of its call were another.
    """
    for _, blocks, _ in backbone.layers:
        for block in blocks:
            block.attn.attn.__class__ = FusedMultiheadAttention
    return backbone


def use_plain_fusion(head: nn.Module) -> nn.Module:
    """Let our heatmap head, which MMPose has no stock of, fuse as SegFormer defines it.

    The authors' head does so too: all levels are resized and concatenated, then convolved.
    """

    def forward(feats: Sequence[Tensor]) -> Tensor:
        """Feature maps of all levels -> heatmaps ``[B, K, H_0, W_0]``."""
        levels = [
            F.interpolate(conv(x), feats[0].shape[2:], mode="bilinear", align_corners=False)
            for conv, x in zip(head.convs, feats, strict=True)
        ]
        return head.final_layer(head.fusion_conv(torch.cat(levels, dim=1)))

    head.forward = forward
    return head
