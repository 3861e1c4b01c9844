"""Painting pictures: groups of tokens, what merging changed, the image that a network was given."""

import cv2
import numpy as np
from torch import Tensor, nn

MARK = (255, 0, 110)
"""Colour of what changed, RGB."""

BEFORE = (0, 110, 255)
"""Colour of where a keypoint was without merging, RGB."""


def draw_slots(
    image: np.ndarray,
    slot: np.ndarray,
    hw: tuple[int, int],
    outline: float | None = 0.45,
) -> np.ndarray:
    """Paint every pixel in the mean colour of all pixels whose tokens merged with its own.

    Groups need not be connected: distant tokens of one group share a colour.

    Args:
        image: `[H, W, 3]` uint8, any channel order.
        slot: Slot of each token, integers `[N]`, row by row; an array or a tensor on the CPU.
        hw: Grid in tokens, `hw[0] * hw[1] == N`. It is stretched over the whole image.
        outline: Brightness of the lines between groups, 0 (black) to 1 (invisible), or None for
            no lines. They are a pixel wide; where tokens are below 4 pixels there are none.

    Returns:
        A new image, `[H, W, 3]` uint8.

    Raises:
        ValueError: The image, the slots and the grid do not fit together.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    slot = np.asarray(slot)
    if slot.ndim != 1 or slot.size != hw[0] * hw[1]:
        raise ValueError(f"slot must be [{hw[0]} * {hw[1]}] for this grid, got {list(slot.shape)}")
    height, width = image.shape[:2]
    groups = stretch(slot.reshape(hw), (height, width))
    painted = paint_groups(image, groups)
    if outline is not None and min(height / hw[0], width / hw[1]) >= 4:
        lines = borders(groups)
        painted[lines] = (painted[lines] * outline).round()
    return painted


def paint_groups(image: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Paint every pixel in the mean colour of all pixels of its group.

    Args:
        image: `[H, W, 3]` uint8, any channel order.
        groups: Group of each pixel, integers `[H, W]`.

    Returns:
        A new image, `[H, W, 3]` uint8.
    """
    dense = groups.ravel() - groups.min()
    if dense.max() >= dense.size:  # else sorting them costs more than some empty groups
        dense = np.unique(dense, return_inverse=True)[1]
    count = np.maximum(np.bincount(dense), 1)[:, None]
    total = [np.bincount(dense, image[..., c].ravel().astype(float)) for c in range(3)]
    colour = np.stack(total, axis=1) / count  # [groups, 3]
    return colour.round().astype(np.uint8)[dense].reshape(image.shape)


def stretch(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Stretch a grid of tokens over an image, `[h, w] -> [H, W]`: the token of each pixel.

    Args:
        grid: A value for each token (or pixel, to shrink an image without mixing values).
        size: Height and width in pixels; need not be multiples of the grid's.
    """
    height, width = size
    rows = np.arange(height) * grid.shape[0] // height
    cols = np.arange(width) * grid.shape[1] // width
    return grid[rows[:, None], cols]


def borders(groups: np.ndarray) -> np.ndarray:
    """Pixels `[H, W]` whose right or lower neighbour belongs to another group."""
    found = np.zeros(groups.shape, bool)
    found[:, :-1] |= groups[:, :-1] != groups[:, 1:]
    found[:-1] |= groups[:-1] != groups[1:]
    return found


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


def to_rgb(image: Tensor, preprocessor: nn.Module | None) -> np.ndarray:
    """The image that a network was given: undo what a data preprocessor did to its colours.

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


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an image, `[H, W, 3]` uint8, to `size`, (height, width)."""
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, size[::-1], interpolation=method)
