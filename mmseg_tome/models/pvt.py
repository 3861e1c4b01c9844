"""Merge-aware PVT (arXiv 2102.12122) and PVTv2 (arXiv 2106.13797): mmpose's backbones."""

from mmpose.models.backbones import pvt as stock
from torch import Tensor

from mmseg_tome.models.stock_attention import StockAttention
from mmseg_tome.models.stock_backbone import MergingBackbone, Stage
from mmseg_tome.nets.layers import Grid
from mmseg_tome.registry import MODELS


class SpatialReductionAttention(StockAttention, stock.SpatialReductionAttention):
    """Attention with spatially reduced keys and values, the same as SegFormer's."""


class AbsolutePositionEmbedding(stock.AbsolutePositionEmbedding):
    """The stock one; torch.compile takes no `PassGrid` for the size to resize to."""

    def forward(self, x: Tensor, hw_shape: Grid) -> Tensor:
        """`[B, H * W, C]` in and out."""
        return super().forward(x, tuple(hw_shape))


class _PVT(MergingBackbone):
    attention = SpatialReductionAttention

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, stock.AbsolutePositionEmbedding):
                module.__class__ = AbsolutePositionEmbedding

    def stages(self) -> list[Stage]:
        return [
            Stage(embed, [b.attn for b in blocks if isinstance(b, stock.PVTEncoderLayer)])
            for embed, blocks, _ in self.layers  # PVT's blocks begin with a position embedding
        ]


@MODELS.register_module()
class PyramidVisionTransformer(_PVT, stock.PyramidVisionTransformer):
    """mmpose's `PyramidVisionTransformer` with token merging; see `MergingBackbone`."""


@MODELS.register_module()
class PyramidVisionTransformerV2(_PVT, stock.PyramidVisionTransformerV2):
    """mmpose's `PyramidVisionTransformerV2` with token merging; see `MergingBackbone`."""
