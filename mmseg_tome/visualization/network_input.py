"""The image that a network was given, back in colours."""

import numpy as np
from torch import Tensor, nn


def to_rgb(image: Tensor, preprocessor: nn.Module | None) -> np.ndarray:
    """Undo what a data preprocessor of mmseg or mmpose did to an image's colours.

    A preprocessor that swaps channels is taken for one that turns BGR to RGB, as all of the mm
    packages' configs have it; from one that does not, the image comes as OpenCV reads it, BGR.

    Args:
        image: `[C, H, W]`, normalised. Of other than 3 channels their mean is shown, as grey from
            the smallest to the largest value.
        preprocessor: Has `mean` and `std` if it normalises; None for an image in 0 to 255, RGB.

    Returns:
        `[H, W, 3]` uint8, RGB.
    """
    image = image.detach().float().cpu()
    if image.shape[0] != 3:
        grey = image.mean(0)
        grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp(min=1e-12) * 255
        image = grey.expand(3, -1, -1)
    elif preprocessor is not None:
        if getattr(preprocessor, "_enable_normalize", False):
            mean, std = (getattr(preprocessor, name).float().cpu() for name in ("mean", "std"))
            image = image * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
        # The official mmseg has its own name for what mmengine, mmpose and the other mmseg share.
        names = ("_channel_conversion", "channel_conversion", "flips_channels")
        if not any(getattr(preprocessor, name, False) for name in names):
            image = image.flip(0)
    return np.ascontiguousarray(image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
