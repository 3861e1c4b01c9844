"""Checkpoints of NVlabs/SegFormer, the original: segmentation models, and `mit_b*.pth`."""

import re

from mmseg_tome.checkpoints.checkpoint import Checkpoint, Source, build_checkpoint
from mmseg_tome.checkpoints.formats.base import DROPPED, Format, register_format
from mmseg_tome.checkpoints.formats.mm import read_meta
from mmseg_tome.checkpoints.tensors import (
    NVLABS,
    NormEps,
    Renaming,
    change_eps,
    join_projections,
    linear_to_pointwise,
    reverse_levels,
)

RENAMING = Renaming(
    [
        ("backbone.layers.{i}.0.projection", "backbone.patch_embed{n}.proj"),
        ("backbone.layers.{i}.0.norm", "backbone.patch_embed{n}.norm"),
        ("backbone.layers.{i}.1.{j}.norm1", "backbone.block{n}.{j}.norm1"),
        ("backbone.layers.{i}.1.{j}.attn.attn.q", "backbone.block{n}.{j}.attn.q"),
        ("backbone.layers.{i}.1.{j}.attn.attn.kv", "backbone.block{n}.{j}.attn.kv"),
        ("backbone.layers.{i}.1.{j}.attn.attn.out_proj", "backbone.block{n}.{j}.attn.proj"),
        ("backbone.layers.{i}.1.{j}.attn.sr", "backbone.block{n}.{j}.attn.sr"),
        ("backbone.layers.{i}.1.{j}.attn.norm", "backbone.block{n}.{j}.attn.norm"),
        ("backbone.layers.{i}.1.{j}.norm2", "backbone.block{n}.{j}.norm2"),
        ("backbone.layers.{i}.1.{j}.ffn.layers.0", "backbone.block{n}.{j}.mlp.fc1"),
        ("backbone.layers.{i}.1.{j}.ffn.layers.1", "backbone.block{n}.{j}.mlp.dwconv.dwconv"),
        ("backbone.layers.{i}.1.{j}.ffn.layers.4", "backbone.block{n}.{j}.mlp.fc2"),
        ("backbone.layers.{i}.2", "backbone.norm{n}"),
        ("decode_head.convs.{i}.conv", "decode_head.linear_c{n}.proj"),
        ("decode_head.fusion_conv.conv", "decode_head.linear_fuse.conv"),
        ("decode_head.fusion_conv.bn", "decode_head.linear_fuse.bn"),
        ("decode_head.conv_seg", "decode_head.linear_pred"),
    ]
)

# ImageNet's classifier; and what the head inherits but does not use, its own is `linear_pred`.
UNUSED = re.compile(r"(backbone\.)?head\.(weight|bias)|decode_head\.conv_seg\.(weight|bias)")
BARE = re.compile(r"(patch_embed|block|norm)\d\.")
"""How keys of a backbone's own file begin."""


@register_format
class NVlabs(Format):
    name = "nvlabs"
    title = "NVlabs/SegFormer (original)"

    def our_key(self, key: str) -> str | None:
        if UNUSED.fullmatch(key):
            return DROPPED
        return RENAMING.to_ours(f"backbone.{key}" if BARE.match(key) else key)

    def convert(self, source: Source) -> Checkpoint:
        state, dropped = self.rename(source.state)
        state = reverse_levels(linear_to_pointwise(join_projections(state)))
        eps = NVLABS.blocks
        state = change_eps(state, NVLABS, NormEps(eps, eps))
        known = read_meta(source.meta)
        return build_checkpoint(state, origin=self.title, norm_eps=eps, dropped=dropped, **known)
