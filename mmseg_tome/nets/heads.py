"""SegFormer's all-MLP head for segmentation and for keypoint heatmaps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tome.nets.fusion import ConvNormAct, fuse_levels, pointwise


class SegformerHead(nn.Module):
    """Fuse the levels of a backbone and classify each pixel (arXiv 2105.15203, section 3.2).

    State-dict keys are those of mmseg's head of this name.

    Args:
        in_channels: Channels of each level, the finest first.
        num_classes: Number of classes.
        channels: Channels that levels are projected to and fused in.
        drop_rate: Dropout of whole channels before the classifier.
        linear: Project levels linearly, as NVlabs and Hugging Face do, in place of mmseg's
            projection with a norm and a ReLU. Weights of one do not fit the other.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 256,
        drop_rate: float = 0.1,
        linear: bool = False,
    ):
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.dropout = nn.Dropout2d(drop_rate)
        self.convs: Any = nn.ModuleList(
            ConvNormAct(level, channels, linear) for level in in_channels
        )
        self.fusion_conv = ConvNormAct(channels * len(in_channels), channels)

    def init_weights(self) -> None:
        """Small logits to begin with; the other convolutions start as they are built."""
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        assert self.conv_seg.bias is not None
        nn.init.zeros_(self.conv_seg.bias)
        self.fusion_conv.init_weights()  # once more: mmengine draws for it again

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Feature maps `[B, C_i, H_i, W_i]` of all levels -> logits `[B, classes, H_0, W_0]`."""
        return fuse_levels(levels, self.convs, self.fusion_conv, self.cls_seg)

    def cls_seg(self, x: Tensor) -> Tensor:
        """Classify each pixel, `[B, channels, H, W] -> [B, classes, H, W]`."""
        return pointwise(self.dropout(x), self.conv_seg.weight, self.conv_seg.bias)


class SegformerHeatmapHead(nn.Module):
    """Fuse the levels of a backbone and predict keypoint heatmaps (arXiv 2405.14467, section 4).

    State-dict keys are those of `mmseg_tome.SegformerHeatmapHead` for mmpose.

    Args:
        in_channels: Channels of each level, the finest first.
        num_keypoints: Number of keypoints K.
        channels: Channels that levels are projected to and fused in.
    """

    def __init__(self, in_channels: Sequence[int], num_keypoints: int, channels: int = 256):
        super().__init__()
        self.final_layer = nn.Conv2d(channels, num_keypoints, kernel_size=1)
        self.convs: Any = nn.ModuleList(ConvNormAct(level, channels) for level in in_channels)
        self.fusion_conv = ConvNormAct(channels * len(in_channels), channels)

    def init_weights(self) -> None:
        """Small heatmaps to begin with; the other convolutions start as they are built."""
        nn.init.normal_(self.final_layer.weight, std=0.001)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)
        self.fusion_conv.init_weights()

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Feature maps `[B, C_i, H_i, W_i]` of all levels -> heatmaps `[B, K, H_0, W_0]`.

        Heatmaps are float32 at least: numpy, which decodes them, has no bfloat16.
        """
        heatmaps = fuse_levels(levels, self.convs, self.fusion_conv, self.predict)
        return heatmaps.to(torch.promote_types(heatmaps.dtype, torch.float32))

    def predict(self, x: Tensor) -> Tensor:
        """The heatmaps' pixels, `[B, channels, H, W] -> [B, K, H, W]`."""
        return pointwise(x, self.final_layer.weight, self.final_layer.bias)
