"""What merging changed in a prediction."""

import cv2
import numpy as np

MARK = (255, 0, 110)
"""Colour of what changed, RGB."""

BEFORE = (0, 110, 255)
"""Colour of where a keypoint was without merging, RGB."""


def grey_out(image: np.ndarray) -> np.ndarray:
    """A pale grey picture of an image, `[H, W, 3]` uint8 RGB, that colours stand out from."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    pale = (110 + 0.5 * grey).astype(np.uint8)
    return np.repeat(pale[..., None], 3, axis=2)


def mark_changes(image: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Mark changed pixels on a greyed image.

    Args:
        image: `[h, w, 3]` uint8 RGB, the picture at the size to be shown.
        changed: Whether a pixel changed, bool `[H, W]`, of any size. Lines that are thinner than a
            pixel of the picture stay visible.

    Returns:
        A new picture, as `image` is.
    """
    size = image.shape[1::-1]
    share = cv2.resize(changed.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    opacity = np.clip(2.5 * share, 0, 1)[..., None]  # [h, w, 1]
    painted = grey_out(image) * (1 - opacity) + np.array(MARK) * opacity
    return painted.round().astype(np.uint8)


def mark_shifts(
    image: np.ndarray, before: np.ndarray, after: np.ndarray, shown: np.ndarray
) -> np.ndarray:
    """Mark where keypoints were without merging and where they are with it, on a greyed image.

    Args:
        image: `[h, w, 3]` uint8 RGB.
        before: Keypoints in pixels of the image, x and y, `[K, 2]`.
        after: The same with merging.
        shown: Which of them to draw, bool `[K]`.

    Returns:
        A new picture, as `image` is.
    """
    painted = grey_out(image)
    radius = max(3, round(max(image.shape[:2]) / 90))
    for start, end in zip(before[shown], after[shown], strict=True):
        ends = [tuple(round(float(value)) for value in point) for point in (start, end)]
        cv2.line(painted, *ends, MARK, max(1, radius // 2), cv2.LINE_AA)
        cv2.circle(painted, ends[0], radius + 1, BEFORE, 2, cv2.LINE_AA)
        cv2.circle(painted, ends[1], radius - 1, MARK, -1, cv2.LINE_AA)
    return painted
