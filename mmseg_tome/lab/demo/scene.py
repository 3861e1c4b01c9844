"""One street: where everything stands, and what it looks like.

Every scene is a street in perspective with the 19 training classes of Cityscapes at several depths
and with persons near enough to see their joints. Colours are shared between classes, and light,
haze, grain and blur vary, so that shape and context must be learnt.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from mmseg_tome.lab.demo import objects
from mmseg_tome.lab.demo.canvas import (
    ID,
    VOID,
    Camera,
    Canvas,
    Rng,
    develop,
    pick,
    smooth_noise,
    vary,
)

FAR = 150.0  # metres; the street ends in a backdrop there
MIN_VISIBLE = 9  # keypoints: fewer do not make a pose
MIN_STATURE = 0.2  # of the rows of the image


class Person(NamedTuple):
    """Someone on foot whose joints can be seen.

    Attributes:
        keypoints: x, y in pixels and COCO's visibility, [17, 3]: 0 outside the picture (x and y
            are 0, too), 1 hidden, 2 visible.
        box: x, y, width, height in pixels, around keypoints and silhouette.
        area: pixels of the silhouette.
    """

    keypoints: np.ndarray
    box: tuple[int, int, int, int]
    area: int


class Scene(NamedTuple):
    """What is rendered.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        labels: train ids, uint8 [H, W], 0..18 or 255 (void).
        persons: those near enough to see their joints.
    """

    image: np.ndarray
    labels: np.ndarray
    persons: list[Person]


def render_scene(rng: Rng, height: int = 512) -> Scene:
    """Draw one street.

    Args:
        rng: everything random comes from here; the layout of a scene does not depend on ``height``.
        height: rows of the image, at least 64; the width is twice that.
    """
    if height < 64:
        raise ValueError(f"height must be at least 64 pixels, not {height}")
    layout, camera_noise = rng.spawn(2)
    camera = Camera(height, horizon=layout.uniform(0.4, 0.46), curve=layout.normal(0, 2.5e-4))
    sky = np.array(pick(layout, (150, 180, 215), (205, 208, 210), (120, 160, 210), (222, 206, 190)))
    canvas = Canvas(camera, haze=sky * 0.95, visibility=layout.uniform(120, 400))
    _paint_sky(canvas, layout, camera_noise, sky)
    street = _Street(canvas, layout)
    street.paint_ground()
    street.line_sides()
    street.add_traffic()
    street.add_furniture()
    street.add_people()
    painted = street.paint()
    if layout.random() < 0.5:
        _paint_bonnet(canvas, layout)
    persons = [_annotate(canvas, number, *found) for number, found in painted.items()]
    return Scene(develop(canvas, camera_noise), canvas.labels, [p for p in persons if p])


def _paint_sky(canvas: Canvas, rng: Rng, noise_rng: Rng, sky: np.ndarray) -> None:
    h, w = canvas.ids.shape
    rows = np.linspace(0.75, 1.15, h)[:, None, None] * sky
    clouds = smooth_noise(noise_rng, (h, w), h / 5) + 0.5 * smooth_noise(noise_rng, (h, w), h / 14)
    canvas.image[:] = np.clip(
        rows + np.clip(clouds, 0, 1.5)[..., None] * rng.uniform(0, 22), 0, 255
    )
    canvas.ids[:] = ID["sky"]


def _paint_bonnet(canvas: Canvas, rng: Rng) -> None:
    """Of the car that carries the camera."""
    h, w = canvas.ids.shape
    across = np.linspace(0.1, 0.9, 40)
    top = 1 - rng.uniform(0.05, 0.11) * np.sqrt(np.clip(1 - ((across - 0.5) / 0.4) ** 2, 0, 1))
    outline = [*zip(across * w, top * h, strict=True), (0.9 * w, h + 1), (0.1 * w, h + 1)]
    canvas.fill(np.array(outline), vary(rng, (60, 62, 68), 20), VOID)


def _annotate(canvas: Canvas, number: int, xy: np.ndarray, front: np.ndarray) -> Person | None:
    """The person of a number, if enough of it can be seen."""
    h, w = canvas.ids.shape
    silhouette = canvas.owners == number
    inside = ((xy >= 0) & (xy <= (w - 1, h - 1))).all(axis=1)
    cols, rows = np.round(np.where(inside[:, None], xy, 0)).astype(int).T
    visible = inside & front & silhouette[rows, cols]
    if visible.sum() < MIN_VISIBLE or np.ptp(xy[:, 1]) < MIN_STATURE * h:
        return None
    keypoints = np.column_stack([xy, 1 + visible]) * inside[:, None]
    corners = np.concatenate([np.argwhere(silhouette)[:, ::-1], np.round(xy[inside])])
    (x1, y1), (x2, y2) = corners.min(axis=0).astype(int), corners.max(axis=0).astype(int) + 1
    box = int(x1), int(y1), int(min(x2, w) - x1), int(min(y2, h) - y1)
    return Person(keypoints, box, int(silhouette.sum()))


class _Street:
    """Collects what stands in a street by depth, to paint it far to near.

    ``kerb``, ``verge`` and ``front`` are where carriageway, grass and pavement end, in metres from
    the camera to the left and to the right.
    """

    def __init__(self, canvas: Canvas, rng: Rng) -> None:
        self.canvas, self.rng = canvas, rng
        self.items: list[tuple] = []  # (depth in metres, number of a person or 0, how to paint it)
        self.tram = rng.random() < 0.45
        self.kerb = (rng.uniform(5.5, 7.5) + 2.5 * self.tram, rng.uniform(3.2, 5.2))
        self.verge = tuple(rng.uniform(1.2, 3) if rng.random() < 0.35 else 0.0 for _ in range(2))
        self.front = tuple(
            k + v + rng.uniform(2.5, 4.5) for k, v in zip(self.kerb, self.verge, strict=True)
        )
        self.tram_x = 2.4 - self.kerb[0]
        self.sides = tuple(zip((-1, 1), self.kerb, self.front, strict=True))

    def add(self, kind, *where, depth: float | None = None, number: int = 0) -> None:
        """Have something painted: ``kind(canvas, rng, *where)``, where x and z come first."""
        paint = partial(kind, self.canvas, self.rng.spawn(1)[0], *where)
        self.items.append((where[1] if depth is None else depth, number, paint))

    def paint(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Paint everything; returns the joints of each numbered person, see `objects.person`."""
        items = sorted(self.items, key=lambda item: -item[0])
        painted = [(number, paint()) for _, number, paint in items]
        return {number: found for number, found in painted if number}

    def paint_ground(self) -> None:
        canvas, rng, (left, right) = self.canvas, self.rng, self.kerb
        grounds = ((104, 122, 62), (134, 126, 76), (120, 104, 78), (88, 116, 60))
        asphalt = np.array(vary(rng, pick(rng, (96, 96, 98), (118, 116, 112), (78, 80, 84)), 8))
        paving = np.array(
            vary(rng, pick(rng, (140, 136, 132), (124, 112, 106), (160, 154, 144)), 8)
        )
        grass, white = np.array(vary(rng, pick(rng, *grounds))), np.array((208, 208, 204))
        canvas.strip(-200, 200, 1.5, FAR * 4, grass, ID["terrain"])
        for (side, kerb, front), verge in zip(self.sides, self.verge, strict=True):
            canvas.strip(side * kerb, side * (front + 0.5), 1.5, FAR, paving, ID["sidewalk"])
            for z in np.arange(2, 30, 1.5):  # slabs
                canvas.strip(side * kerb, side * front, z, z + 0.06, paving * 0.82)
            if verge:
                grassy = side * (kerb + 0.2), side * (kerb + 0.2 + verge)
                canvas.strip(*grassy, 1.5, FAR, grass, ID["terrain"])
        canvas.strip(-left, right, 1.5, FAR, asphalt, ID["road"])
        for side, kerb, _ in self.sides:
            edge = np.minimum(paving * 1.12, 250)
            canvas.strip(side * kerb, side * (kerb + 0.18), 1.5, FAR, edge, ID["sidewalk"])
        for _ in range(rng.integers(2, 7)):  # repairs and manholes
            x, z, size = rng.uniform(-left, right - 1), rng.uniform(3, 40), rng.uniform(0.5, 2.5)
            canvas.strip(x, x + size * 0.6, z, z + size, asphalt * rng.uniform(0.82, 1.1))
        for z in np.arange(rng.uniform(0, 6), 110, 9.0):  # the dashed line
            canvas.strip(-1.85, -1.7, z, z + 4, white)
        canvas.strip(right - 0.45, right - 0.33, 1.5, 110, white)
        if rng.random() < 0.4:  # a zebra crossing
            z = rng.uniform(8, 25)
            for x in np.arange(-left + 0.3, right - 0.6, 1.0):
                canvas.strip(x, x + 0.5, z, z + 3.2, white)
        for rail in (-0.72, 0.72) if self.tram else ():
            rails = self.tram_x + rail, self.tram_x + rail + 0.1
            canvas.strip(*rails, 1.5, FAR, asphalt * 0.6)
        side, _, front = pick(rng, *self.sides)  # one side lies in the shade of its houses
        edge = side * front
        shade = [(edge, edge - side * rng.uniform(0, 7), z, z + 12) for z in np.arange(4, 100, 12)]
        canvas.darken(shade, rng.uniform(0.1, 0.4))

    def line_sides(self) -> None:
        """Houses, walls, fences, hedges and open ground along both pavements; the street's end."""
        rng = self.rng
        kinds = (objects.facade, objects.wall, objects.fence, objects.hedge, None)
        for side, _, x in self.sides:
            z, bag = rng.uniform(1, 4), []
            while z < FAR:
                # Drawn from a bag: every stretch of street has a bit of everything.
                bag = bag or rng.permutation([0, 0, 1, 2, 2, 3, 4]).tolist()
                kind = kinds[bag.pop()]
                end = z + (rng.uniform(9, 18) if kind is objects.facade else rng.uniform(6, 13))
                if kind:
                    self.add(kind, side, x, z, end, depth=end)
                if kind is not objects.facade:  # something behind what is low
                    if rng.random() < 0.45:
                        set_back = x + rng.uniform(6, 14)
                        self.add(objects.facade, side, set_back, z, end, depth=end + 0.7)
                    for at in rng.uniform(z, end, rng.integers(1, 4)):
                        spot = side * (x + rng.uniform(1.5, 6))
                        self.add(objects.tree, spot, at, depth=end + 0.5)
                z = end
        for x in np.arange(-60, 60, 9.0):
            self.add(objects.tree if rng.random() < 0.65 else objects.far_house, x, FAR)

    def add_traffic(self) -> None:
        """Vehicles in the lanes and parked at the kerbs; nothing overlaps on the ground."""
        rng, shade = self.rng, []
        lengths = {objects.car: 4.8, objects.truck: 9.5, objects.bus: 12.5, None: 1.8}
        moving = [objects.car] * 5 + [objects.truck] * 2 + [objects.bus] * 2 + [None]
        lanes = [(0.9, 0.0, False), (-3.3, np.pi, False)]
        if not self.tram:
            parked = [(s * (kerb - 1.0), 0.0, True) for s, kerb, _ in self.sides]
            lanes += [lane for lane in parked if rng.random() < 0.5]
        for n, (x, yaw, standing) in enumerate(lanes):
            z = rng.uniform(7, 16) if n == 0 else rng.uniform(3.5, 14)
            while z < 90:
                kind = objects.car if standing and rng.random() < 0.85 else pick(rng, *moving)
                middle = z + lengths[kind] / 2
                if kind:
                    self.add(kind, x, middle, yaw + rng.normal(0, 0.03))
                else:
                    self.add(pick(rng, objects.bicycle, objects.motorcycle), x, middle, True)
                shade.append((x - 1.1, x + 1.1, z - 0.2, z + lengths[kind] + 0.2))
                z += lengths[kind] + (rng.uniform(0.8, 5) if standing else rng.uniform(5, 26))
        if self.tram:
            yaw, z = pick(rng, 0.0, np.pi), rng.uniform(3.5, 14)
            while z < 90:
                self.add(objects.train, self.tram_x, z + 15.5, yaw)
                shade.append((self.tram_x - 1.1, self.tram_x + 1.1, z - 0.2, z + 31.2))
                z += 31 + rng.uniform(5, 26)
        if rng.random() < 0.25:  # somebody crosses the street further on
            kind = pick(rng, objects.bus, objects.truck, objects.train, objects.car)
            yaw = pick(rng, -1, 1) * np.pi / 2
            self.add(kind, rng.uniform(-9, 9), rng.uniform(45, 70), yaw)
        self.canvas.darken(shade, 0.5)

    def add_furniture(self) -> None:
        """What stands on the pavements."""
        rng = self.rng
        bikes = (objects.bicycle, objects.bicycle, objects.motorcycle)
        for side, kerb, front in self.sides:
            near = side * (kerb + 0.45)
            for z in np.arange(rng.uniform(6, 20), 90, rng.uniform(16, 28)):
                self.add(objects.lamp_post, near, z)
            for z in rng.uniform(6, 35, rng.integers(2, 5)):
                self.add(objects.traffic_sign, near, z)
            for z in rng.uniform(7, 35, rng.integers(1, 4)):
                self.add(objects.traffic_light, near, z)
            if rng.random() < 0.4:
                for z in rng.uniform(5, 20) + np.arange(0, 12, 1.8):
                    self.add(objects.bollard, side * (kerb + 0.3), z)
            if rng.random() < 0.6:
                for z in rng.uniform(8, 60, rng.integers(1, 4)):
                    self.add(objects.tree, side * (front - 0.5), z)
            if rng.random() < 0.75:
                for z in rng.uniform(5, 18) + np.arange(rng.integers(2, 6)) * 0.9:
                    self.add(pick(rng, *bikes), near, z, False)
            if rng.random() < 0.4:
                self.add(objects.litter_bin, side * (front - 0.6), rng.uniform(6, 30))

    def add_people(self) -> None:
        """On the pavements, on bikes, and crossing the street near the camera and further on."""
        rng, (left, right) = self.rng, self.kerb
        places = []
        for side, kerb, front in self.sides:
            depths = rng.uniform(5, 30, rng.integers(3, 9))
            places += [(side * rng.uniform(kerb + 0.5, front - 0.3), z) for z in depths]
        places += [(rng.uniform(-left, right), z) for z in rng.uniform(8, 30, rng.integers(0, 4))]
        near = rng.integers(2, 5)  # they have a part of the picture each
        for part in (np.arange(near) + rng.uniform(0.25, 0.75, near)) / near * 2 - 1:
            z = rng.uniform(3.4, 7.5)
            places.append((0.85 * part * z, z))
        for number, place in enumerate(places, start=1):
            self.add(objects.person, *place, number, number=number)
        for z in rng.uniform(5, 24, rng.integers(2, 6)):
            x = pick(rng, 0.7 - left, right - 0.7)
            self.add(pick(rng, objects.bicycle, objects.motorcycle), x, z, True)
