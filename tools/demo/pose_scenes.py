"""Render a seeded data set of jointed figures in the format of COCO keypoints.

    python tools/demo/pose_scenes.py data/demo_pose_scenes

One to three figures before a cluttered background, facing the camera or turned away, so that left
and right must be told from the face and the chest. Clothes share their colours with the clutter,
limbs hide each other, things stand in front of them, and some reach out of the picture. The same
seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pose_figure import (
    KEYPOINTS,
    PARTS,
    Pose,
    cloth_colour,
    paint_figure,
    random_look,
    random_pose,
    visible,
)
from rendering import counted, fill_both, new_folder, pick, smooth_noise, vary, write_png

WIDTH, HEIGHT = 320, 256  # pixels
SPLITS = ("train", "val")
MIN_VISIBLE = 7  # keypoints of each figure: fewer do not make a pose
# COCO's skeleton, keypoints counted from 1.
SKELETON = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9],
    [8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip
CATEGORY = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(KEYPOINTS),
            "skeleton": SKELETON}  # fmt: skip
BACKGROUND = 0  # owner of the pixels that no figure shows at; figures' parts follow


class Figure(NamedTuple):
    """One figure of a scene.

    Attributes:
        pose: its joints in three dimensions.
        keypoints: x, y in pixels and COCO's visibility, [17, 3]: 0 outside the picture (x and y
            are 0, too), 1 hidden, 2 visible.
        silhouette: where it would be seen were nothing in front of it, bool [H, W].
    """

    pose: Pose
    keypoints: np.ndarray
    silhouette: np.ndarray


def render_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[Figure]]:
    """Draw one picture, uint8 [HEIGHT, WIDTH, 3] RGB, and say who is in it."""
    while True:
        (attempt,) = rng.spawn(1)
        image, figures = _attempt(attempt)
        if all((figure.keypoints[:, 2] == 2).sum() >= MIN_VISIBLE for figure in figures):
            return image, figures


def _attempt(rng: np.random.Generator) -> tuple[np.ndarray, list[Figure]]:
    image = _background(rng)
    owners = np.full((HEIGHT, WIDTH), BACKGROUND, np.uint8)
    number = pick(rng, 1, 1, 2, 2, 2, 3)
    statures = np.sort(rng.uniform(0.55, (1.1, 1.0, 0.85)[number - 1], number)) * HEIGHT
    painted = []
    for i, place in enumerate(rng.permutation(number)):  # small ones are far: they come first
        x = WIDTH * (place + 0.5 + rng.normal(0, 0.13)) / number
        # The hips of somebody who stands on the lower edge, or a bit higher or lower.
        y = max(HEIGHT - statures[i] * rng.uniform(0.36, 0.62), statures[i] * rng.uniform(0.4, 0.6))
        pose, first = random_pose(rng), 1 + i * len(PARTS)
        figure = (pose, random_look(rng), (x, y), statures[i], first)
        alone = np.full_like(owners, BACKGROUND)
        paint_figure(np.zeros_like(image), alone, *figure)
        flat = paint_figure(image, owners, *figure)
        painted.append((pose, flat, first, alone != BACKGROUND))
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 3)):
            _paint_thing(image, owners, rng)
    figures = []
    for pose, flat, first, silhouette in painted:
        keypoints = np.zeros((len(KEYPOINTS), 3))
        for k, (name, (x, y)) in enumerate(flat.items()):
            if 0 <= x <= WIDTH - 1 and 0 <= y <= HEIGHT - 1:
                keypoints[k] = (x, y, 1 + visible(pose, name, (x, y), owners, first))
        figures.append(Figure(pose, keypoints, silhouette))
    return _developed(image, rng), figures


def _background(rng: np.random.Generator) -> np.ndarray:
    """A wall over a floor with furniture-like shapes and limb-like strokes."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = vary(rng, pick(rng, (150, 160, 170), (190, 180, 160), (110, 120, 110)), 25)
    floor = vary(rng, pick(rng, (120, 100, 80), (105, 110, 100), (150, 150, 150)), 25)
    image[int(HEIGHT * rng.uniform(0.55, 0.85)) :] = floor
    for _ in range(rng.integers(4, 10)):
        _paint_thing(image, None, rng)
    grain = smooth_noise(rng, (HEIGHT, WIDTH), 3) * 5 + smooth_noise(rng, (HEIGHT, WIDTH), 24) * 9
    return cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U)


def _paint_thing(image: np.ndarray, owners: np.ndarray | None, rng: np.random.Generator) -> None:
    """A box, an ellipse, or a bar as thick as a limb; it hides the figures that are there."""
    middle, colour = rng.uniform((0, 0), (WIDTH, HEIGHT)), cloth_colour(rng)
    kind = pick(rng, "box", "ellipse", "bar", "bar")
    if kind == "bar":
        size, turn = rng.uniform((15, 2), (75, 6)), rng.uniform(0, np.pi)  # half sides in pixels
    else:
        size, turn = rng.uniform(8, 40, 2), 0.0
    if kind == "ellipse":
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * size
    else:
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * size
    cos, sin = np.cos(turn), np.sin(turn)
    points = middle + corners @ np.array([(cos, sin), (-sin, cos)])
    fill_both(image, owners, points, colour, None if owners is None else BACKGROUND)


def _developed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera adds: blur, white balance, gamma, noise."""
    levels = np.linspace(0, 1, 256)[:, None] * rng.normal(1, 0.03, 3) * rng.uniform(0.8, 1.15)
    curve = 255 * np.power(np.clip(levels, 0, 1), rng.uniform(0.85, 1.2))
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.8))
    image = cv2.LUT(image, curve.round().astype(np.uint8)[None])
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32) * rng.uniform(1, 3)
    return cv2.add(image, cv2.merge([noise] * 3), dtype=cv2.CV_8U)


# ---- the data set --------------------------------------------------------------------------------


def scene_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The generator of one scene."""
    return np.random.default_rng([seed, SPLITS.index(split), number])


def write_dataset(root: str | Path, num_train: int, num_val: int, seed: int = 0) -> Path:
    """Render into ``root``: ``train/``, ``val/``, ``annotations/person_keypoints_*.json``.

    The folder appears only when it is complete.

    Raises:
        FileExistsError: ``root`` exists already.
    """
    root = Path(root)
    jobs = [("train", n) for n in range(num_train)] + [("val", n) for n in range(num_val)]
    found = {split: {"images": [], "annotations": []} for split in SPLITS}
    with new_folder(root) as folder:
        for split, number in counted("figures", jobs):
            image, figures = render_scene(scene_rng(seed, split, number))
            name = f"{number:06d}.png"
            write_png(folder / split / name, image)
            _annotate(found[split], number, name, figures)
        (folder / "annotations").mkdir()
        for split, parts in found.items():
            file = folder / "annotations" / f"person_keypoints_{split}.json"
            file.write_text(json.dumps({**parts, "categories": [CATEGORY]}))
    return root


def _annotate(found: dict[str, list], number: int, name: str, figures: list[Figure]) -> None:
    """Add one scene to the lists "images" and "annotations" of its split."""
    size = {"width": WIDTH, "height": HEIGHT}
    found["images"].append({"id": number, "file_name": name, **size})
    for figure in figures:
        rows, cols = np.nonzero(figure.silhouette)
        x, y = int(cols.min()), int(rows.min())
        found["annotations"].append(
            {
                "id": len(found["annotations"]) + 1,
                "image_id": number,
                "category_id": CATEGORY["id"],
                "bbox": [x, y, int(cols.max()) + 1 - x, int(rows.max()) + 1 - y],
                "area": int(figure.silhouette.sum()),
                "iscrowd": 0,
                "num_keypoints": int((figure.keypoints[:, 2] > 0).sum()),
                "keypoints": [
                    value
                    for x, y, v in figure.keypoints.tolist()
                    for value in (round(x, 1), round(y, 1), int(v))
                ],
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder to create")
    parser.add_argument("--train", type=int, default=600, help="training pictures")
    parser.add_argument("--val", type=int, default=100, help="validation pictures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write_dataset(args.root, args.train, args.val, args.seed)
    except FileExistsError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
