"""What the renderers of both demos share: random colours, noise, polygons, and safe writing."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

Rng = np.random.Generator
Colour = tuple[float, float, float]  # RGB, 0..255

_SUBPIXEL_BITS = 4


def pick(rng: Rng, *options):
    return options[rng.integers(len(options))]


def vary(rng: Rng, colour: Colour, spread: float = 14) -> Colour:
    """A neighbour of the colour: mostly lighter or darker, a little in hue."""
    return tuple(
        np.clip(np.add(colour, rng.normal(0, spread) + rng.normal(0, spread / 3, 3)), 8, 250)
    )


def smooth_noise(rng: Rng, shape: tuple[int, int], cell: float) -> np.ndarray:
    """float32 [H, W] of unit variance and zero mean, correlated over ``cell`` pixels."""
    h, w = shape
    small = rng.standard_normal((int(h / cell) + 2, int(w / cell) + 2), dtype=np.float32)
    noise = cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)
    return noise / max(float(noise.std()), 1e-6)


def fill_both(
    image: np.ndarray,
    labels: np.ndarray | None,
    points: np.ndarray,
    colour: Colour,
    label: int | None,
) -> None:
    """Fill one polygon [K, 2] in pixels: smooth in the image, with hard edges in the labels.

    Without a label the image alone changes.
    """
    corners = np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(image, [corners], colour, cv2.LINE_AA, _SUBPIXEL_BITS)
    if label is not None:
        cv2.fillPoly(labels, [corners], label, cv2.LINE_8, _SUBPIXEL_BITS)


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``root`` once it is complete and else disappears.

    Raises:
        FileExistsError: ``root`` exists already.
    """
    if root.exists():
        raise FileExistsError(f"{root} exists already: remove it or name another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp's folder is private
        unfinished.rename(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def counted(what: str, jobs: list) -> Iterable:
    """The jobs, with a count of them on stderr."""
    for done, job in enumerate(jobs, start=1):
        yield job
        print(f"\rrendering {what} {done}/{len(jobs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 [H, W] or RGB [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    encoded, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded:
        raise OSError(f"cannot encode {path.name} as PNG")
    path.write_bytes(data)
