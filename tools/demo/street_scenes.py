"""Render a seeded data set of street scenes in the layout of Cityscapes.

    python tools/demo/street_scenes.py data/demo_street_scenes --height 1024

Every scene is a street in perspective with the 19 training classes of Cityscapes at several depths.
Colours are shared between classes, and light, haze, grain and blur vary, so that shape and context
must be learnt. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import street_objects as objects
from rendering import counted, new_folder, pick, smooth_noise, vary, write_png
from street_canvas import ID, VOID, Camera, Canvas, develop, rect

FAR = 150.0  # metres; the street ends in a backdrop there
CITIES = {"train": "arbostadt", "val": "querfurt"}
# Cityscapes' label id of each train id; void (255) becomes 0, 'unlabeled'.
LABEL_IDS = np.zeros(256, np.uint8)
LABEL_IDS[:19] = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

Paint = Callable[[], None]
Drawables = list[tuple[float, Paint]]  # (depth in metres, how to paint it)


def render_scene(rng: np.random.Generator, height: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street.

    Args:
        rng: everything random comes from here; the layout of a scene does not depend on ``height``.
        height: rows of the image, at least 64; the width is twice that.

    Returns:
        The image, uint8 [H, W, 3] RGB, and the train ids, uint8 [H, W], 0..18 or 255 (void).
    """
    if height < 64:
        raise ValueError(f"height must be at least 64 pixels, not {height}")
    layout, camera_noise = rng.spawn(2)
    camera = Camera(height, horizon=layout.uniform(0.4, 0.46), curve=layout.normal(0, 2.5e-4))
    sky = np.array(pick(layout, (150, 180, 215), (205, 208, 210), (120, 160, 210), (222, 206, 190)))
    canvas = Canvas(camera, haze=sky * 0.95, visibility=layout.uniform(120, 400))
    street = _Street(layout)
    _paint_sky(canvas, layout, camera_noise, sky)
    _paint_ground(canvas, layout, street)
    drawables = [*_both_sides(canvas, layout, street), *_traffic(canvas, layout, street)]
    drawables += _pavement_life(canvas, layout, street)
    for _, paint in sorted(drawables, key=lambda item: -item[0]):
        paint()
    if layout.random() < 0.5:
        _paint_bonnet(canvas, layout)
    return develop(canvas, camera_noise), canvas.labels


class _Street:
    """Where the kerbs are, in metres from the camera; each pair is (left, right)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.tram = rng.random() < 0.45
        self.kerb = (rng.uniform(5.5, 7.5) + 2.5 * self.tram, rng.uniform(3.2, 5.2))
        self.verge = tuple(rng.uniform(1.2, 3) if rng.random() < 0.35 else 0.0 for _ in range(2))
        self.front = tuple(
            k + v + rng.uniform(2.5, 4.5) for k, v in zip(self.kerb, self.verge, strict=True)
        )
        self.tram_x = -self.kerb[0] + 2.4
        self.parked = tuple(rng.random() < 0.5 for _ in range(2))


def _paint_sky(canvas: Canvas, rng, noise_rng, sky) -> None:
    h, w = canvas.labels.shape
    rows = np.linspace(0.75, 1.15, h)[:, None, None] * sky
    clouds = smooth_noise(noise_rng, (h, w), h / 5) + 0.5 * smooth_noise(noise_rng, (h, w), h / 14)
    clouds = np.clip(clouds, 0, 1.5)[..., None] * rng.uniform(0, 22)
    canvas.image[:] = np.clip(rows + clouds, 0, 255)
    canvas.labels[:] = ID["sky"]


def _paint_ground(canvas: Canvas, rng, street: _Street) -> None:
    asphalt = np.array(vary(rng, pick(rng, (96, 96, 98), (118, 116, 112), (78, 80, 84)), 8))
    paving = np.array(vary(rng, pick(rng, (140, 136, 132), (124, 112, 106), (160, 154, 144)), 8))
    grass = np.array(
        vary(rng, pick(rng, (104, 122, 62), (134, 126, 76), (120, 104, 78), (88, 116, 60)))
    )
    canvas.strip(-200, 200, 1.5, FAR * 4, grass, ID["terrain"])
    for side, i in ((-1, 0), (1, 1)):
        canvas.strip(
            side * street.kerb[i], side * (street.front[i] + 0.5), 1.5, FAR, paving, ID["sidewalk"]
        )
        for z in np.arange(2, 30, 1.5):  # slabs
            canvas.strip(side * street.kerb[i], side * street.front[i], z, z + 0.06, paving * 0.82)
        if street.verge[i]:
            inner = street.kerb[i] + 0.2
            canvas.strip(
                side * inner, side * (inner + street.verge[i]), 1.5, FAR, grass, ID["terrain"]
            )
    left, right = street.kerb
    canvas.strip(-left, right, 1.5, FAR, asphalt, ID["road"])
    for side, kerb in ((-1, left), (1, right)):
        edge = np.minimum(paving * 1.12, 250)
        canvas.strip(side * kerb, side * (kerb + 0.18), 1.5, FAR, edge, ID["sidewalk"])
    for _ in range(rng.integers(2, 7)):  # repairs and manholes
        x, z, size = rng.uniform(-left, right - 1), rng.uniform(3, 40), rng.uniform(0.5, 2.5)
        canvas.strip(x, x + size * 0.6, z, z + size, asphalt * rng.uniform(0.82, 1.1))
    white = np.array((208, 208, 204))
    for z in np.arange(rng.uniform(0, 6), 110, 9.0):  # the dashed line
        canvas.strip(-1.85, -1.7, z, z + 4, white)
    canvas.strip(right - 0.45, right - 0.33, 1.5, 110, white)
    if rng.random() < 0.4:  # a zebra crossing
        z = rng.uniform(8, 25)
        for x in np.arange(-left + 0.3, right - 0.6, 1.0):
            canvas.strip(x, x + 0.5, z, z + 3.2, white)
    if street.tram:
        for rail in (-0.72, 0.72):
            canvas.strip(street.tram_x + rail, street.tram_x + rail + 0.1, 1.5, FAR, asphalt * 0.6)
    _paint_building_shade(canvas, rng, street)


def _paint_building_shade(canvas: Canvas, rng, street: _Street) -> None:
    """One side of the street lies in the shade of its houses."""
    shade = Canvas(canvas.camera, (255, 255, 255), 1e9)
    side, i = pick(rng, (-1, 0), (1, 1))
    edge = side * street.front[i]
    for z in np.arange(4, 100, 12):
        shade.strip(edge, edge - side * rng.uniform(0, 7), z, z + 12, (255, 255, 255))
    canvas.darken(shade.image[..., 0], rng.uniform(0.1, 0.4))


def _both_sides(canvas: Canvas, rng, street: _Street) -> Drawables:
    """Houses, walls, fences, hedges and open ground along both pavements; the street's end."""
    items: Drawables = []
    for side, i in ((-1, 0), (1, 1)):
        x, z, bag = street.front[i], rng.uniform(1, 4), []
        while z < FAR:
            # Drawn from a bag: every stretch of street has a bit of everything.
            bag = bag or rng.permutation([0, 0, 1, 2, 2, 3, 4]).tolist()
            paint = (objects.facade, objects.wall, objects.fence, objects.hedge, None)[bag.pop()]
            end = z + (rng.uniform(9, 18) if paint is objects.facade else rng.uniform(6, 13))
            if paint:
                items.append((end, partial(paint, canvas, rng.spawn(1)[0], side, x, z, end)))
            if paint is not objects.facade:  # something behind what is low
                back = end + 0.5
                if rng.random() < 0.45:
                    house = partial(
                        objects.facade,
                        canvas,
                        rng.spawn(1)[0],
                        side,
                        x + rng.uniform(6, 14),
                        z,
                        end,
                    )
                    items.append((back + 0.2, house))
                for _ in range(rng.integers(1, 4)):
                    at = rng.uniform(z, end)
                    spot = side * (x + rng.uniform(1.5, 6))
                    items.append((back, partial(objects.tree, canvas, rng.spawn(1)[0], spot, at)))
            z = end
    for x in np.arange(-60, 60, 9.0):
        if rng.random() < 0.65:
            items.append((FAR + 5, partial(objects.tree, canvas, rng.spawn(1)[0], x, FAR)))
        else:
            items.append((FAR + 5, partial(_far_house, canvas, rng.spawn(1)[0], x)))
    return items


def _far_house(canvas: Canvas, rng, x: float) -> None:
    colour, half, height = vary(rng, (150, 142, 136), 22), rng.uniform(5, 9), rng.uniform(6, 22)
    points = [(a, b, FAR) for a, b in rect(x - half, x + half, 0, height)]
    canvas.polygon(points, colour, ID["building"])


def _traffic(canvas: Canvas, rng, street: _Street) -> Drawables:
    """Vehicles in the lanes, parked at the kerbs, and cyclists; nothing overlaps on the ground."""
    lanes = [(0.9, 0.0), (-3.3, np.pi)]
    if street.tram:
        lanes.append((street.tram_x, pick(rng, 0.0, np.pi)))
    lanes += [
        (side * (street.kerb[i] - 1.0), 0.0)
        for side, i in ((-1, 0), (1, 1))
        if street.parked[i] and not street.tram
    ]
    shade = Canvas(canvas.camera, (255, 255, 255), 1e9)
    items: Drawables = []
    for n, (x, yaw) in enumerate(lanes):
        tram_lane, parked = street.tram and n == 2, n > 1 and not street.tram
        z = rng.uniform(7, 16) if n == 0 else rng.uniform(3.5, 14)
        while z < 90:
            if tram_lane:
                kind, length = objects.train, 31.0
            else:
                kind = pick(
                    rng,
                    *[objects.car] * 5,
                    objects.truck,
                    objects.truck,
                    objects.bus,
                    objects.bus,
                    None,
                )
                kind = objects.car if parked and rng.random() < 0.85 else kind
                length = {objects.car: 4.8, objects.truck: 9.5, objects.bus: 12.5, None: 1.8}[kind]
            middle = z + length / 2
            turn = yaw + rng.normal(0, 0.03) if not tram_lane else yaw
            spawned = rng.spawn(1)[0]
            if kind:
                items.append((middle, partial(kind, canvas, spawned, x, middle, turn)))
            else:
                cycle = pick(rng, objects.bicycle, objects.motorcycle)
                items.append((middle, partial(cycle, canvas, spawned, x, middle, True)))
            shade.strip(x - 1.1, x + 1.1, z - 0.2, z + length + 0.2, (255, 255, 255))
            z += length + (rng.uniform(0.8, 5) if parked else rng.uniform(5, 26))
    if rng.random() < 0.25:  # somebody crosses the street further on
        kind, z = (
            pick(rng, objects.bus, objects.truck, objects.train, objects.car),
            rng.uniform(45, 70),
        )
        yaw = pick(rng, -1, 1) * np.pi / 2
        items.append((z, partial(kind, canvas, rng.spawn(1)[0], rng.uniform(-9, 9), z, yaw)))
    canvas.darken(shade.image[..., 0], 0.5)
    return items


def _pavement_life(canvas: Canvas, rng, street: _Street) -> Drawables:
    items: Drawables = []

    def add(kind, x: float, z: float, *args) -> None:
        items.append((z, partial(kind, canvas, rng.spawn(1)[0], x, z, *args)))

    for side, i in ((-1, 0), (1, 1)):
        inner, outer = street.kerb[i], street.front[i]
        near_kerb = side * (inner + 0.45)
        for z in np.arange(rng.uniform(6, 20), 90, rng.uniform(16, 28)):
            add(objects.lamp_post, near_kerb, z)
        for z in rng.uniform(6, 35, rng.integers(2, 5)):
            add(objects.traffic_sign, near_kerb, z)
        for z in rng.uniform(7, 35, rng.integers(1, 4)):
            add(objects.traffic_light, near_kerb, z)
        if rng.random() < 0.4:
            start = rng.uniform(5, 20)
            for z in np.arange(start, start + 12, 1.8):
                add(objects.bollard, side * (inner + 0.3), z)
        if rng.random() < 0.6:
            for z in rng.uniform(8, 60, rng.integers(1, 4)):
                add(objects.tree, side * (outer - 0.5), z)
        for z in rng.uniform(5, 30, rng.integers(3, 9)):
            add(objects.person, side * rng.uniform(inner + 0.5, outer - 0.3), z)
        if rng.random() < 0.75:
            start = rng.uniform(5, 18)
            for z in start + np.arange(rng.integers(2, 6)) * 0.9:
                add(
                    pick(rng, objects.bicycle, objects.bicycle, objects.motorcycle),
                    near_kerb,
                    z,
                    False,
                )
        if rng.random() < 0.4:
            add(objects.bin_, side * (outer - 0.6), rng.uniform(6, 30))
    left, right = street.kerb
    for z in rng.uniform(5, 24, rng.integers(2, 6)):
        add(
            pick(rng, objects.bicycle, objects.motorcycle),
            pick(rng, -left + 0.7, right - 0.7),
            z,
            True,
        )
    for z in rng.uniform(8, 30, rng.integers(0, 4)):
        add(objects.person, rng.uniform(-left, right), z)
    return items


def _paint_bonnet(canvas: Canvas, rng) -> None:
    h, w = canvas.labels.shape
    across = np.linspace(0.1, 0.9, 40)
    top = 1 - rng.uniform(0.05, 0.11) * np.sqrt(np.clip(1 - ((across - 0.5) / 0.4) ** 2, 0, 1))
    outline = np.stack([across * w, top * h], axis=1)
    outline = np.concatenate([outline, [(0.9 * w, h + 1), (0.1 * w, h + 1)]])
    canvas.fill(outline, vary(rng, (60, 62, 68), 20), VOID)


def scene_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The generator of one scene: render it again at any other height."""
    return np.random.default_rng([seed, list(CITIES).index(split), number])


def write_dataset(
    root: str | Path, num_train: int, num_val: int, height: int, seed: int = 0
) -> Path:
    """Render into ``root`` in the layout of Cityscapes (``leftImg8bit/``, ``gtFine/``).

    The folder appears only when it is complete.

    Raises:
        FileExistsError: ``root`` exists already.
    """
    root = Path(root)
    jobs = [("train", n) for n in range(num_train)] + [("val", n) for n in range(num_val)]
    with new_folder(root) as folder:
        for split, number in counted("street scenes", jobs):
            image, labels = render_scene(scene_rng(seed, split, number), height)
            _write_scene(folder, split, number, image, labels)
    return root


def _write_scene(
    root: Path, split: str, number: int, image: np.ndarray, labels: np.ndarray
) -> None:
    city = CITIES[split]
    stem = f"{city}_{number:06d}_000019"
    write_png(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image)
    truth = root / "gtFine" / split / city
    write_png(truth / f"{stem}_gtFine_labelTrainIds.png", labels)
    write_png(truth / f"{stem}_gtFine_labelIds.png", LABEL_IDS[labels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder to create")
    parser.add_argument("--train", type=int, default=60, help="training scenes")
    parser.add_argument("--val", type=int, default=20, help="validation scenes")
    parser.add_argument("--height", type=int, default=512, help="rows; the width is twice that")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        write_dataset(args.root, args.train, args.val, args.height, args.seed)
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
