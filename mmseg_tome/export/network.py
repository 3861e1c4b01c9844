"""A config's segmentation or pose model as a function from normalised images to its output."""

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tome import compat
from mmseg_tome.config import is_pose
from mmseg_tome.errors import UserError
from mmseg_tome.models.image_channels import image_channels
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


def load_model(cfg: Config, checkpoint: str) -> nn.Module:
    """Build a config's model with a checkpoint's weights and its `dataset_meta`, on the CPU.

    Raises:
        CheckpointError: The checkpoint cannot be read, wants to run code, or does not fit.
        UserError: The config's mm package is missing, or its model cannot be run on images.
    """
    package = "mmpose" if is_pose(cfg) else "mmseg"
    if not compat.has(package):
        raise UserError(f"this config needs {package}, which is not installed here")
    if is_pose(cfg):
        from mmseg_tome.inference.pose import PosePredictor as Predictor
    else:
        from mmseg_tome.inference.segmentation import SegmentationPredictor as Predictor
    return Predictor(cfg, checkpoint, "cpu").model
