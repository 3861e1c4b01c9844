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
    # Token of each pixel; a grid that does not divide the image is stretched over it.
    rows = np.arange(height) * hw[0] // height
    cols = np.arange(width) * hw[1] // width
    groups = slot.reshape(hw)[rows[:, None], cols]  # [H, W]

    _, dense = np.unique(groups, return_inverse=True)
    dense = dense.ravel()
    count = np.bincount(dense)[:, None]
    total = [np.bincount(dense, image[..., c].ravel().astype(float)) for c in range(3)]
    colour = np.stack(total, axis=1) / count  # [groups, 3]
    painted = colour[dense].reshape(image.shape)
    if outline is not None and min(height / hw[0], width / hw[1]) >= 4:
        painted[_borders(groups)] *= outline
    return painted.round().astype(np.uint8)


def _borders(groups: np.ndarray) -> np.ndarray:
    """Pixels [H, W] whose right or lower neighbour belongs to another group."""
    borders = np.zeros(groups.shape, bool)
    borders[:, :-1] |= groups[:, :-1] != groups[:, 1:]
    borders[:-1] |= groups[:-1] != groups[1:]
    return borders
