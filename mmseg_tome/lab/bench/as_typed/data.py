"""Made-up data sets with the names, sizes and decoding costs of the real ones.

Files of photographs are made of smooth shapes under sensor noise, as much of it as gives files of
the real ones' size: what an image costs to decode goes with its bytes and pixels. A few different
ones are linked to as many names as a test has images. The same numbers always give the same files.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

CITYSCAPES_SIZE = (1024, 2048)
COCO_SIZE = (480, 640)
JUMP_SIZE = (720, 1280)
"""A frame of a broadcast. (The release's own size is not known here.)"""
COCO_KEYPOINTS, JUMP_KEYPOINTS = 17, 20
PERSONS = 4
"""Persons in a COCO image; as many more images, with one athlete each, has Jump-Broadcast."""
SPLITS = {"train": "aachen", "val": "frankfurt"}
"""With a city of Cityscapes each."""
NOISE = {"cityscapes": 0.9, "coco": 5.0, "jump_broadcast": 2.5}
"""Standard deviation of grain and noise in grey levels, so that files are as large as real ones:
Cityscapes' PNG files take 2.2 MB, COCO's JPEG files 160 kB, broadcasts are compressed more."""


@dataclass(frozen=True)
class Data:
    """What to make.

    Attributes:
        images: Names in each split of the images with several objects.
        different: How many of them are files of their own.
        size: (H, W) of the Cityscapes images.
    """

    images: int
    different: int = 24
    size: tuple[int, int] = CITYSCAPES_SIZE

    @property
    def athletes(self) -> int:
        """Names in each split of Jump-Broadcast's images."""
        return self.images * PERSONS

    def make(self, root: Path, names: Iterable[str]) -> None:
        """Make those of the data sets ``names`` (see `MAKERS`) that are not below ``root`` yet."""
        for name in names:
            folder, done = root / name, root / f"{name}.json"
            wanted = json.dumps(asdict(self))
            if done.is_file() and done.read_text() == wanted:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            MAKERS[name](folder, self)
            done.write_text(wanted)


def scene(seed: int, size: tuple[int, int], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A made-up photograph, ``[H, W, 3]`` uint8, and its labels, ``[H, W]``: 0 to 18 and 255."""
    random = np.random.default_rng(seed)
    height, width = size
    labels = np.full(size, random.integers(19), np.uint8)
    for label in random.permutation([*range(19), *range(19), 255]).tolist():
        centre = random.random(2) * (width, height)
        radius = (0.04 + 0.2 * random.random()) * height
        angles = np.sort(random.random(9)) * 2 * np.pi
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + centre
        cv2.fillPoly(labels, [corners.astype(np.int32)], label)
    colours = random.integers(30, 200, (256, 3)).astype(np.float32)
    image = cv2.GaussianBlur(colours[labels], (0, 0), 1.0)
    for octave in (4, 16, 64):  # light and texture
        coarse = random.normal(0, 9, (octave, 2 * octave)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    image += random.standard_normal(image.shape, np.float32) * noise
    return np.clip(image, 0, 255).astype(np.uint8), labels


def make_cityscapes(root: Path, data: Data) -> None:
    """Cityscapes' folders and names, with `labelTrainIds`."""

    def write(folder: Path, index: int) -> None:
        image, labels = scene(index, data.size, NOISE["cityscapes"])
        _write(folder / f"{index}_image.png", image, cv2.IMWRITE_PNG_COMPRESSION, 4)
        _write(folder / f"{index}_labels.png", labels, cv2.IMWRITE_PNG_COMPRESSION, 6)

    originals = _originals(root, write, data.different)
    files = {"image": "leftImg8bit/{}_leftImg8bit", "labels": "gtFine/{}_gtFine_labelTrainIds"}
    for (split, city), index in itertools.product(SPLITS.items(), range(data.images)):
        name = f"{split}/{city}/{city}_{index:06d}_000019"
        for what, path in files.items():
            file = originals / f"{index % data.different}_{what}.png"
            _link(file, root / f"{path.format(name)}.png")


def make_coco(root: Path, data: Data) -> None:
    """COCO's folders, names and person annotations."""
    originals = _originals(root, _jpegs(COCO_SIZE, NOISE["coco"]), data.different)
    names = [f"{index + 1:012d}.jpg" for index in range(data.images)]
    for split in SPLITS:
        annotations = root / "annotations" / f"person_keypoints_{split}2017.json"
        _link_all(originals, root / f"{split}2017", names, data.different)
        _annotate(annotations, names, COCO_SIZE, PERSONS, COCO_KEYPOINTS)


def make_jump_broadcast(root: Path, data: Data) -> None:
    """Jump-Broadcast's folders and annotation files."""
    originals = _originals(root, _jpegs(JUMP_SIZE, NOISE["jump_broadcast"]), data.different)
    names = [f"jump_{index:06d}.jpg" for index in range(data.athletes)]
    for split in SPLITS:
        annotations = root / "annotations" / f"{split}_jump.json"
        _link_all(originals, root / "images" / split, names, data.different)
        _annotate(annotations, names, JUMP_SIZE, 1, JUMP_KEYPOINTS)


MAKERS: dict[str, Callable[[Path, Data], None]] = {
    "cityscapes": make_cityscapes,
    "coco": make_coco,
    "jump_broadcast": make_jump_broadcast,
}
"""By the folder's name in the configs' `data_root`."""


Writer = Callable[[Path, int], None]
"""Writes the original of a number into a folder."""


def _originals(root: Path, write: Writer, number: int) -> Path:
    folder = root / "originals"
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda index: write(folder, index), range(number)))
    return folder


def _jpegs(size: tuple[int, int], noise: float) -> Writer:
    def write(folder: Path, index: int) -> None:
        image, _ = scene(index, size, noise)
        _write(folder / f"{index}.jpg", image, cv2.IMWRITE_JPEG_QUALITY, 92)

    return write


def _write(path: Path, image: np.ndarray, option: int, value: int) -> None:
    if not cv2.imwrite(str(path), image, [option, value]):
        raise OSError(f"cannot write {path}")


def _link(file: Path, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, name)
    except OSError:  # a file system without links, or too many to one file
        shutil.copy(file, name)


def _link_all(originals: Path, folder: Path, names: list[str], different: int) -> None:
    for index, name in enumerate(names):
        _link(originals / f"{index % different}.jpg", folder / name)


def _annotate(
    path: Path, names: list[str], size: tuple[int, int], persons: int, keypoints: int
) -> None:
    """Write annotations in COCO's format: so many persons an image, all keypoints visible."""
    random = np.random.default_rng(0)
    height, width = size
    images, people = [], []
    for image_id, name in enumerate(names, 1):
        images.append(dict(id=image_id, file_name=name, height=height, width=width))
        for _ in range(persons):
            h = height * (0.25 + 0.6 * random.random())
            w = min(h * (0.3 + 0.4 * random.random()), 0.9 * width)
            x, y = random.random(2) * (width - w, height - h)
            points = random.random((keypoints, 2)) * (w, h) + (x, y)
            visible = np.full((keypoints, 1), 2.0)
            people.append(
                dict(
                    id=len(people) + 1,
                    image_id=image_id,
                    category_id=1,
                    iscrowd=0,
                    bbox=[float(x), float(y), float(w), float(h)],
                    area=float(0.6 * w * h),
                    num_keypoints=keypoints,
                    keypoints=np.concatenate([points, visible], 1).round(1).ravel().tolist(),
                )
            )
    categories = [dict(id=1, name="person", supercategory="person")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(images=images, annotations=people, categories=categories)))
