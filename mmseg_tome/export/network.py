"""A config's segmentation or pose model as a function from normalised images to its output."""

import torch
from torch import Tensor, nn

from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.runtime.precision import to_half


class Network(nn.Module):
    """Backbone, neck if any, and head: all of a model but pre- and post-processing.

    Args:
        model: A segmentor of mmseg or a pose estimator of mmpose; goes into eval mode.
        half: Compute in float16; what goes in and comes out stays float32. Changes `model`.

    Attributes:
        channels: Of an image.
    """

    def __init__(self, model: nn.Module, half: bool = False):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.channels = image_channels(model)
        self.dtype = torch.float16 if half else torch.float32
        if half:
            to_half(model, self.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images `[B, C, H, W]` -> logits or heatmaps `[B, K, h, w]`, float32."""
        return self.model(images.to(self.dtype), None, mode="tensor").float()
