"""What a model refuses of a config or an image."""

from mmseg_tome.errors import UserError


class ModelInputError(UserError, ValueError):
    """An input that the model cannot take."""


class ImageSizeError(ModelInputError):
    """An image that is too small for the backbone."""


class HeatmapSizeError(ModelInputError):
    """A codec that was told another heatmap size than the network gives."""
