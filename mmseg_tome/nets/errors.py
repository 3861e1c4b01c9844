"""What a model refuses: mistakes in a config or in an image that its user can mend."""


class ModelInputError(ValueError):
    """An input that the model cannot take; tools print the message without a traceback."""


class ImageSizeError(ModelInputError):
    """An image that is too small for the backbone."""


class HeatmapSizeError(ModelInputError):
    """A codec that was told another heatmap size than the network gives."""
