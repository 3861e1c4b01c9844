"""A picture of a slot map: what attention still tells apart."""

import numpy as np


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
    _, dense = np.unique(groups, return_inverse=True)
    dense = dense.ravel()
    count = np.bincount(dense)[:, None]
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
