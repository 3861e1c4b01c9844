"""How many channels the images of a model have."""

from torch import nn


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its backbone's first convolution.

    Args:
        model: A segmentor, a pose estimator, or a backbone; one that has no such convolution says
            so itself by an attribute `image_channels`.

    Raises:
        ValueError: It begins with no convolution.
    """
    backbone = getattr(model, "backbone", model)
    if hasattr(backbone, "image_channels"):
        return backbone.image_channels
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError(f"{type(backbone).__name__} has no convolution that takes an image")
