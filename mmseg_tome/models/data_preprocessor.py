"""The stock data preprocessors, but that swapping channels does not wait for the GPU.

They index each image by a list, which is copied to the device, and the host waits there until the
GPU has done all that it was given before.
"""

from collections.abc import Mapping

import torch

from mmseg_tome import compat
from mmseg_tome.registry import MODELS


class FlipsChannels:
    """Swaps red and blue by a flip. To be derived from before a class of mmengine's or mmseg's."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # The official mmseg has its own name for what the others share.
        names = ("_channel_conversion", "channel_conversion")
        self.flips_channels = any(getattr(self, name, False) for name in names)
        for name in names:
            setattr(self, name, False)

    def cast_data(self, data):
        """Data on the model's device; the images of a batch in the channels' order of the model."""
        data = super().cast_data(data)
        if self.flips_channels and isinstance(data, Mapping) and "inputs" in data:
            images = data["inputs"]  # [B, C, H, W], or a list of [C, H, W]
            images = images.unbind() if hasattr(images, "unbind") else images
            flipped = [image.flip(0) if image.shape[0] == 3 else image for image in images]
            data = {**data, "inputs": flipped}
        return data


if compat.has("mmseg"):
    from mmseg.models import SegDataPreProcessor as StockSegDataPreProcessor

    @MODELS.register_module()
    class SegDataPreProcessor(FlipsChannels, StockSegDataPreProcessor):
        """mmseg's: the same arguments and results."""


if compat.has("mmpose"):
    from mmpose.models import PoseDataPreprocessor as StockPoseDataPreprocessor

    @MODELS.register_module()
    class PoseDataPreprocessor(FlipsChannels, StockPoseDataPreprocessor):
        """mmpose's: the same arguments and results, persons normalised together."""

        def cast_data(self, data):
            """As stock does, but that crops of one size are one tensor, `[B, 3, H, W]`."""
            data = super().cast_data(data)
            if isinstance(data, Mapping) and len({x.shape for x in data.get("inputs", ())}) == 1:
                data = {**data, "inputs": torch.stack(list(data["inputs"]))}
            return data
