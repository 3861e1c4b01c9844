"""Merge-aware plain ViT (arXiv 2010.11929): mmseg's backbone, its class token kept apart."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmseg.models.backbones import vit as stock
from torch import Tensor

from mmseg_tome.merging import SlotMap, StageMerging, parse_without_auto
from mmseg_tome.merging.attention import PassGrid, TokenMerger
from mmseg_tome.models.stock_attention import StockAttention
from mmseg_tome.models.stock_backbone import MergingBackbone, Stage
from mmseg_tome.nets.layers import tokens_to_map
from mmseg_tome.ops import SegmentOrder
from mmseg_tome.registry import MODELS

PRESET_STAGE = 2
"""The stage of a preset, from 0, that a ViT merges by: the one at the same stride, 16."""


class ViTAttention(StockAttention, MultiheadAttention):
    """Attention over the tokens of a grid, and a class token before them that never merges."""

    def find_slots(self, merger: TokenMerger, x: Tensor, hw: PassGrid) -> SlotMap:
        """The slot map of tokens `[B, N, C]`, the last `H * W` of which are those of a grid."""
        before = x.shape[1] - hw[0] * hw[1]
        slots = merger(x[:, before:], hw)
        return keep_first(slots) if before else slots


def keep_first(slots: SlotMap) -> SlotMap:
    """The slot map with one more token, and one more slot that is its own, before all others."""
    order = slots.order
    if order is not None:
        tokens, offsets = (F.pad(index + 1, (1, 0)) for index in order[:2])
        order = SegmentOrder(tokens, offsets, order.largest)
    return SlotMap(F.pad(slots.slot + 1, (1, 0)), slots.num_slots + 1, order)


class TransformerEncoderLayer(stock.TransformerEncoderLayer):
    """A stock block that is told the grid of its tokens."""

    def forward(self, x: Tensor, hw: PassGrid) -> Tensor:
        """`[B, N, C]` in and out."""
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, hw, use_reentrant=False)
        return self._forward(x, hw)

    def _forward(self, x: Tensor, hw: PassGrid) -> Tensor:
        x = self.attn(self.norm1(x), hw, identity=x)
        return self.ffn(self.norm2(x), identity=x)


@MODELS.register_module()
class VisionTransformer(MergingBackbone, stock.VisionTransformer):
    """mmseg's `VisionTransformer` with token merging; see `MergingBackbone` for what it adds.

    It is one stage: `tome_cfg` is a preset's name, one dict or a list of one. Of a preset, which
    has a dict for each stage of a pyramid, it takes the third, whose tokens are of 16x16 pixels,
    too. The class token never merges.
    """

    attention = ViTAttention

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for layer in self.layers:
            layer.__class__ = TransformerEncoderLayer

    def stages(self) -> list[Stage]:
        return [Stage(self.patch_embed, [layer.attn for layer in self.layers])]

    def levels(self) -> tuple[int, str]:
        return len(self.layers), "blocks"

    def read_tome_cfg(self, tome_cfg: str | Sequence | Mapping | None) -> list[StageMerging]:
        if isinstance(tome_cfg, str):
            return [parse_without_auto(tome_cfg, 4)[PRESET_STAGE]]
        if isinstance(tome_cfg, Mapping) and "auto" not in tome_cfg:
            tome_cfg = [tome_cfg]
        return super().read_tome_cfg(tome_cfg)

    def forward(self, inputs: Tensor) -> tuple[Tensor | list[Tensor], ...]:
        """Features of the blocks in `out_indices`.

        The stock forward, except that blocks get the grid, which stock blocks do not know.

        Args:
            inputs: Images, `[B, in_channels, H, W]`.

        Returns:
            Per block `[B, C, h, w]`; with `output_cls_token` and its class token, `[B, C]`.
        """
        x, hw = self.patch_embed(inputs)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # [B, 1 + h * w, C]
        x = self._pos_embeding(x, tuple(hw), self.pos_embed)
        if not self.with_cls_token:
            x = x[:, 1:]
        if self.pre_norm:
            x = self.pre_ln(x)
        outs = [self._output(x, hw)] if self.out_origin else []
        for i, layer in enumerate(self.layers):
            x = layer(x, hw)
            if self.final_norm and i == len(self.layers) - 1:
                x = self.norm1(x)
            if i in self.out_indices:
                outs.append(self._output(x, hw))
        return tuple(outs)

    def _output(self, x: Tensor, hw: PassGrid) -> Tensor | list[Tensor]:
        tokens = x[:, 1:] if self.with_cls_token else x
        out = tokens_to_map(tokens, tuple(hw)).contiguous()  # [B, C, h, w]
        return [out, x[:, 0]] if self.output_cls_token else out
