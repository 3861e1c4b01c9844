"""Merge-aware Twins (arXiv 2104.13840): mmseg's backbones, merging in their global attention."""

from mmseg.models.backbones import twins as stock

from mmseg_tome.models.stock_attention import StockAttention
from mmseg_tome.models.stock_backbone import MergingBackbone, Stage
from mmseg_tome.registry import MODELS


class GlobalSubsampledAttention(StockAttention, stock.GlobalSubsampledAttention):
    """Global attention with spatially reduced keys and values, the same as SegFormer's."""


class _Twins(MergingBackbone):
    attention = GlobalSubsampledAttention

    def stages(self) -> list[Stage]:
        return [
            Stage(embed, [b.attn for b in blocks if isinstance(b, stock.GSAEncoderLayer)])
            for embed, blocks in zip(self.patch_embeds, self.layers, strict=True)
        ]


@MODELS.register_module()
class PCPVT(_Twins, stock.PCPVT):
    """mmseg's `PCPVT` with token merging; see `MergingBackbone` for what it adds."""


@MODELS.register_module()
class SVT(_Twins, stock.SVT):
    """mmseg's `SVT` with token merging; see `MergingBackbone` for what it adds.

    Only its global attention merges, that of every second block, so `reuse=k` counts these blocks.
    Locally-grouped attention works in windows and stays as it is.
    """
