"""The class of each pixel from the small logits of overlapping windows, as mmseg computes it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.backend import use_triton


@dataclass(frozen=True)
class Windows:
    """The sliding windows of mmseg's inference: rows of windows, the last ones moved inwards.

    Attributes:
        hw: Size of the image in pixels, `(H, W)`.
        crop: Size of a window; one that is larger than the image is cut to it.
        stride: Steps between windows.

    Raises:
        ValueError: A size is not positive, or the windows leave pixels out.
    """

    hw: tuple[int, int]
    crop: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self):
        pairs = {name: tuple(map(int, value)) for name, value in vars(self).items()}
        pairs["crop"] = tuple(map(min, pairs["crop"], pairs["hw"]))
        for name, value in pairs.items():
            if min(value) < 1:
                raise ValueError(f"windows have a {name} of {value} pixels")
            object.__setattr__(self, name, value)
        for axis, crop in enumerate(self.crop):
            starts = self.starts(axis)
            if any(b - a > crop for a, b in pairwise(starts)):
                raise ValueError(
                    f"windows of {self.crop} pixels at steps of {self.stride} leave pixels of an "
                    f"image of {self.hw} out: stride must not be larger than crop_size"
                )

    @classmethod
    def whole(cls, hw: tuple[int, int]) -> Windows:
        """One window that is the image."""
        return cls(hw, hw, hw)

    @property
    def grid(self) -> tuple[int, int]:
        """How many windows there are along height and width."""
        sizes = zip(self.hw, self.crop, self.stride, strict=True)
        rows, columns = (-(-(full - crop) // stride) + 1 for full, crop, stride in sizes)
        return rows, columns

    def starts(self, axis: int) -> list[int]:
        """The first pixel of the windows along an axis, 0 or 1."""
        last = self.hw[axis] - self.crop[axis]
        return [min(i * self.stride[axis], last) for i in range(self.grid[axis])]

    def boxes(self) -> list[tuple[slice, slice]]:
        """Rows and columns of each window, in mmseg's order."""
        (h, w), rows, cols = self.crop, self.starts(0), self.starts(1)
        return [(slice(y, y + h), slice(x, x + w)) for y in rows for x in cols]


def label_map(
    logits: Tensor,
    windows: Windows,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The class of each pixel: the arg-max of bilinearly resized logits (`align_corners=False`).

    Each window's logits are resized to the window, averaged where windows overlap, cut to what is
    no padding and, where the image had another size before, resized again. Half precision is
    widened to float32 first. Of equal logits the lowest class wins.

    Args:
        logits: `[windows * B, C, h, w]`, the B images of the first window first.
        windows: Where they are in the image.
        padding: Pixels of the image that are padding: left, right, top, bottom.
        size: Size of the result; by default that of the image without its padding.

    Returns:
        int64 `[B, *size]`; without a gradient.

    Raises:
        ValueError: The shapes do not fit, or nothing is left without padding.
    """
    number = windows.grid[0] * windows.grid[1]
    if logits.ndim != 4 or logits.shape[0] % number or not min(logits.shape[1:]):
        raise ValueError(f"logits {tuple(logits.shape)} are not those of {number} windows an image")
    left, right, top, bottom = padding
    cut = (windows.hw[0] - top - bottom, windows.hw[1] - left - right)
    if min(padding) < 0 or min(cut) < 1:
        raise ValueError(f"a padding of {tuple(padding)} does not fit an image of {windows.hw}")
    wanted = tuple(map(int, size or cut))
    if len(wanted) != 2 or min(wanted) < 1:
        raise ValueError(f"labels of {wanted} pixels are no image")
    size = (wanted[0], wanted[1])
    logits = logits.detach()
    if not use_triton(logits):
        return label_map_torch(logits, windows, padding, size)
    from mmseg_tome.ops import labelling_triton

    layout = (windows.hw, windows.crop, windows.stride, windows.grid)
    return labelling_triton.label_map(logits, *layout, padding, size)


def label_map_torch(
    logits: Tensor,
    windows: Windows,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    size: tuple[int, int] | None = None,
) -> Tensor:
    """`label_map` in torch."""
    if logits.dtype != torch.float64:
        logits = logits.float()
    if windows.grid == (1, 1):
        total = _resize(logits, windows.hw)
    else:
        batch = logits.shape[0] // len(windows.boxes())
        total = logits.new_zeros(batch, logits.shape[1], *windows.hw)
        add_windows(total, logits, windows)
        average_windows(total, windows)
    left, right, top, bottom = padding
    image = total[:, :, top : windows.hw[0] - bottom, left : windows.hw[1] - right]
    return _resize(image, size or image.shape[2:]).argmax(1)


def add_windows(
    total: Tensor, logits: Tensor, windows: Windows, first: int = 0, align_corners: bool = False
) -> None:
    """Add the logits of some windows to those of the images, in place.

    Args:
        total: `[B, C, H, W]`.
        logits: `[n, C, h, w]`, any part of `windows * B`.
        windows: Where they are.
        first: Which one of `windows * B` comes first.
        align_corners: As for `F.interpolate`.
    """
    boxes, batch = windows.boxes(), total.shape[0]
    for i, one in enumerate(logits.split(1), first):
        part = total[i % batch, :, boxes[i // batch][0], boxes[i // batch][1]]  # [C, *crop]
        part += _resize(one, windows.crop, align_corners)[0]


def average_windows(total: Tensor, windows: Windows) -> None:
    """Divide sums, `[B, C, H, W]`, by the number of windows at each pixel, in place."""
    counts = []
    for axis, full in enumerate(windows.hw):
        count = total.new_zeros(full)
        for start in windows.starts(axis):
            count[start : start + windows.crop[axis]] += 1
        counts.append(count)
    if windows.grid != (1, 1):
        total /= counts[0][:, None] * counts[1]


def _resize(x: Tensor, size: tuple[int, ...], align_corners: bool = False) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)
