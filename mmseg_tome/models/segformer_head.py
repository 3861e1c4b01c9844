"""SegFormer's decode head, with its fusion at each level's own resolution."""

from collections.abc import Sequence

from mmseg.models.decode_heads import SegformerHead as StockSegformerHead
from torch import Tensor

from mmseg_tome.models.fusion import fuse_levels, pointwise
from mmseg_tome.registry import MODELS


@MODELS.register_module()
class SegformerHead(StockSegformerHead):
    """The stock all-MLP head: same arguments, state dict and outputs (to rounding), faster."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Feature maps `[B, C_i, H_i, W_i]` of all stages -> logits `[B, classes, H_0, W_0]`."""
        levels = self._transform_inputs(inputs)
        return fuse_levels(
            levels,
            self.convs,
            self.fusion_conv,
            self.cls_seg,
            self.interpolate_mode,
            self.align_corners,
        )

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Classify each pixel, `[B, channels, H, W] -> [B, classes, H, W]`."""
        if self.dropout is not None:
            feat = self.dropout(feat)
        return pointwise(feat, self.conv_seg.weight, self.conv_seg.bias)
