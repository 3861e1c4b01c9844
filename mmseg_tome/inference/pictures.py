"""Images of any kind as pictures that can be looked at and painted over."""

import numpy as np


def to_picture(image: np.ndarray) -> np.ndarray:
    """An image as 8-bit colours; one that is so already comes back itself.

    Of more than three channels the first three are shown, of two their mean. Values that are no
    bytes are stretched between the smallest and the largest.

    Args:
        image: `[H, W]` or `[H, W, C]` of any type, BGR where C is 3.

    Returns:
        `[H, W, 3]` uint8.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8:
        finite = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(finite.min()), float(finite.max())
        image = ((finite - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8)
    channels = image.shape[2]
    if channels == 3:
        return image
    if channels > 3:
        return np.ascontiguousarray(image[..., :3])
    grey = image.mean(axis=2, keepdims=True).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)
