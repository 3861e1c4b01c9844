"""The part of an image that a top-down pose model sees of one person."""

from dataclasses import dataclass

import cv2
import numpy as np
from mmengine.config import Config

from mmseg_tome.config_datasets import find_test_pipeline

PADDING = 1.25  # mmpose's default in GetBBoxCenterScale


@dataclass(frozen=True)
class PersonView:
    """A rectangle around a person's box, of the shape of the network's input.

    Attributes:
        left: x of its left side in pixels of the image; may lie outside.
        top: y of its upper side.
        width: In pixels of the image.
        height: In pixels of the image.
    """

    left: float
    top: float
    width: float
    height: float

    def cut(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The image inside, `[H, W, 3]` uint8, scaled to `size`, (height, width)."""
        height, width = size
        scale = width / self.width
        # Shrinking before cutting: warpAffine alone leaves pixels out.
        shrunk = min(1.0, scale)
        if shrunk < 1:
            sides = [max(1, round(side * shrunk)) for side in image.shape[1::-1]]
            image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
        zoom = scale / shrunk
        matrix = np.array([[zoom, 0, -self.left * scale], [0, zoom, -self.top * scale]])
        return cv2.warpAffine(image, matrix, (width, height))

    def place(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Points of the image, x and y, `[K, 2]`, as points of what `cut` gives."""
        height, width = size
        return (points - (self.left, self.top)) * (width / self.width, height / self.height)


def person_view(box, aspect: float, padding: float) -> PersonView:
    """What the network sees for a box.

    Args:
        box: x, y, width, height in pixels of the image.
        aspect: Width over height of the network's input.
        padding: What the box is enlarged by, see `box_padding`.
    """
    x, y, width, height = (float(value) for value in box)
    centre = (x + width / 2, y + height / 2)
    width, height = width * padding, height * padding
    width, height = max(width, height * aspect), max(height, width / aspect)
    return PersonView(centre[0] - width / 2, centre[1] - height / 2, width, height)


def box_padding(cfg: Config) -> float:
    """What a config's test pipeline enlarges boxes by."""
    for step in find_test_pipeline(cfg):
        if step["type"] == "GetBBoxCenterScale":
            return step.get("padding", PADDING)
    return PADDING
