"""What a predictor gives for one image."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's result.

    Attributes:
        result: What results.json says of it.
        overlay: The image with the prediction painted over it, `[H, W, 3]` uint8, BGR.
        labels: Class of each pixel, `[H, W]` uint8, uint16 of more than 256 classes; None for pose.
    """

    result: dict
    overlay: np.ndarray
    labels: np.ndarray | None = None
