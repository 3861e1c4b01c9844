"""Pictures for the page: what visitors send, read with care, and groups of tokens to look into."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps

from mmseg_tome.predict.inputs import UnreadableError
from mmseg_tome.visualization.painting import MARK, borders, grey_out, stretch
from mmseg_tome.visualization.stage_maps import StageMap

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MOST_PIXELS = 160_000_000
"""Of an image that is read: 12,000 x 12,000 and some."""
ZOOMS = (1, 2, 4, 8)


def read_photo(path: str | Path | BinaryIO, longest: int) -> np.ndarray:
    """Read an image file of anybody's, reduced to a longest side.

    Args:
        path: The file, or its content; what it holds decides, not its name.
        longest: Longest side in pixels of what is returned; a smaller image stays as it is.

    Returns:
        `[H, W, 3]` uint8, RGB, turned as its EXIF data says.

    Raises:
        UnreadableError: It is no image of `FORMATS`, damaged, or too large.
    """
    known = "a JPEG, PNG, WebP, BMP, GIF or TIFF file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise UnreadableError(_too_large(f"{image.width} x {image.height}"))
                image.draft("RGB", (longest, longest))
                image = image if image.mode in ("L", "RGB") else image.convert("RGB")
                image.thumbnail((longest, longest), Image.Resampling.BOX, reducing_gap=2)
                return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnreadableError:
        raise
    except Image.DecompressionBombError:
        raise UnreadableError(_too_large("too many")) from None
    except Exception:  # each decoder has its own
        raise UnreadableError(f"this is not an image, or a damaged one: choose {known}") from None


def _too_large(size: str) -> str:
    return f"this image has {size} pixels: choose one of at most {MOST_PIXELS // 10**6} million"


@dataclass(frozen=True)
class Token:
    """A token of a stage's grid: row and column, from 0."""

    row: int
    col: int


@dataclass(frozen=True, eq=False)
class GroupsView:
    """One stage's groups over the image that merged: painted, enlarged, and asked.

    Attributes:
        stage: The groups.
        image: What merged, `[H, W, 3]` uint8 RGB, of the size of the stage's maps.
        window: Height and width in pixels of what the network saw at once.
    """

    stage: StageMap
    image: np.ndarray
    window: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens over the whole image."""
        sizes = zip(self.image.shape[:2], self.window, self.stage.hw, strict=True)
        return tuple(max(1, -(-pixels * tokens // window)) for pixels, window, tokens in sizes)

    def token_at(self, x: float, y: float, zoom: int, around: Token | None) -> Token:
        """The token under a point of the picture that `paint` gives.

        Args:
            x: As a fraction of the picture's width.
            y: As a fraction of its height.
            zoom: Of that picture.
            around: The same.
        """
        top, left, height, width = self._cut(zoom, around)
        return self._inside(
            int((top + y * height) * self.grid[0] / self.image.shape[0]),
            int((left + x * width) * self.grid[1] / self.image.shape[1]),
        )

    def _inside(self, row: int, col: int) -> Token:
        rows, cols = self.grid
        return Token(min(max(row, 0), rows - 1), min(max(col, 0), cols - 1))

    def _pixel(self, token: Token) -> tuple[int, int]:
        """In the middle of a token."""
        token = self._inside(token.row, token.col)
        places = zip((token.row, token.col), self.grid, self.image.shape[:2], strict=True)
        return tuple(int((at + 0.5) * pixels / count) for at, count, pixels in places)

    def _cut(self, zoom: int, around: Token | None) -> tuple[int, int, int, int]:
        """Top, left, height and width in pixels of what is shown."""
        size = [max(1, pixels // zoom) for pixels in self.image.shape[:2]]
        middle = [pixels // 2 for pixels in self.image.shape[:2]]
        if around is not None:
            middle = self._pixel(around)
        corner = [
            min(max(at - part // 2, 0), pixels - part)
            for at, part, pixels in zip(middle, size, self.image.shape[:2], strict=True)
        ]
        return (*corner, *size)

    def paint(
        self, heat: bool = False, zoom: int = 1, around: Token | None = None,
        token: Token | None = None, longest: int = 1024,
    ) -> np.ndarray:  # fmt: skip
        """Draw the groups, outlined, or where tokens are kept apart.

        Args:
            heat: Draw 1 over the size of each token's group, in place of the groups.
            zoom: Show the part of the image that is smaller by this factor.
            around: Token in the middle of that part; None for the middle of the image.
            token: Show its group: the image in its colours, the rest in pale grey.
            longest: Longest side of the picture in pixels.

        Returns:
            `[H', W', 3]` uint8, RGB.
        """
        top, left, height, width = self._cut(zoom, around)
        part = np.s_[top : top + height, left : left + width]
        scale = longest / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        image = cv2.resize(self.image[part], size[::-1], interpolation=cv2.INTER_LINEAR)
        shown = replace(self.stage, groups=self.stage.groups[part], heat=self.stage.heat[part])
        picture = shown.paint_heat(size) if heat else shown.paint_groups(image)
        if token is None:
            return picture
        mine = stretch(self._mine(token)[part], size)
        picture = np.where(mine[..., None], image, grey_out(picture))
        line = cv2.dilate(borders(mine).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        picture[line] = MARK
        return picture

    def _mine(self, token: Token) -> np.ndarray:
        """Pixels of a token's group, `[H, W]`."""
        return self.stage.groups == self.stage.groups[self._pixel(token)]

    def describe(self, token: Token) -> str:
        """What a token merged with, in a sentence."""
        token = self._inside(token.row, token.col)
        mine = stretch(self._mine(token), self.grid)
        count = int(mine.sum())
        where = f"The token in row {token.row + 1}, column {token.col + 1}"
        if count <= 1:
            return f"{where} is kept apart: it merged with no other."
        rows, cols = (np.flatnonzero(mine.any(axis=axis)) + 1 for axis in (1, 0))
        others = "1 other" if count == 2 else f"{count - 1} others"
        return (
            f"{where} merged with {others}, in rows {rows[0]} to {rows[-1]} and columns "
            f"{cols[0]} to {cols[-1]}."
        )
