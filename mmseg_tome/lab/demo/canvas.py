"""A pinhole camera over flat ground, and a canvas that paints image and labels together.

World axes in metres: X to the right, Y up, Z ahead; the camera stands at X = Z = 0. Everything is
drawn as polygons with sub-pixel corners, so the image height is a free parameter of a scene.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
ID = {name: i for i, name in enumerate(CLASSES)}
VOID = 255

Rng = np.random.Generator
Colour = tuple[float, float, float]  # RGB, 0..255

_NEAR = 1.5  # metres; everything closer is cut away
_SUBPIXEL_BITS = 4
_ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


# ---- random things -------------------------------------------------------------------------------


def pick(rng: Rng, *options):
    return options[rng.integers(len(options))]


def vary(rng: Rng, colour: Colour, spread: float = 14) -> Colour:
    """A neighbour of the colour: mostly lighter or darker, a little in hue."""
    noise = rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    return tuple(np.clip(np.add(colour, noise), 8, 250))


def paint_colour(rng: Rng) -> Colour:
    """Of car paint and clothes alike: no colour tells the class."""
    colours = (
        (30, 30, 34), (225, 225, 222), (150, 152, 156), (90, 92, 98), (150, 28, 30), (35, 60, 130),
        (50, 85, 60), (190, 160, 90), (110, 60, 40), (70, 130, 170),
    )  # fmt: skip
    return vary(rng, pick(rng, *colours))


def smooth_noise(rng: Rng, shape: tuple[int, int], cell: float) -> np.ndarray:
    """float32 [H, W] of unit variance and zero mean, correlated over ``cell`` pixels."""
    h, w = shape
    small = rng.standard_normal((int(h / cell) + 2, int(w / cell) + 2), dtype=np.float32)
    noise = cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)
    return noise / max(float(noise.std()), 1e-6)


# ---- flat shapes, corners [K, 2] -----------------------------------------------------------------


def rect(a1: float, a2: float, b1: float, b2: float) -> np.ndarray:
    return np.array([(a1, b1), (a2, b1), (a2, b2), (a1, b2)], float)


def disc(a: float, b: float, radius: float | tuple[float, float]) -> np.ndarray:
    return np.array([a, b]) + CIRCLE * radius


def bar(start, end, width: float) -> np.ndarray:
    """A straight line of a width."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = (end - start) / max(np.linalg.norm(end - start), 1e-6)
    side = np.array([-along[1], along[0]]) * width / 2
    return np.array([start + side, end + side, end - side, start - side])


# ---- camera and canvas ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Camera:
    """Pinhole camera. ``horizon`` is its row as a share of the image height, ``curve`` the bend of
    the street in 1/metres (X grows by ``curve * Z**2``)."""

    height: int
    horizon: float = 0.42
    curve: float = 0.0
    eye: float = 1.35  # metres above the road, as in Cityscapes
    focal: float = 1.1  # in image heights, as in Cityscapes

    @property
    def width(self) -> int:
        return 2 * self.height

    def scale(self, z: float) -> float:
        """Pixels per metre at depth ``z``."""
        return self.focal * self.height / z

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] in metres to pixels [N, 2]."""
        x, y, z = points.T
        scale = self.focal * self.height / z
        u = self.width / 2 + (x + self.curve * z * z) * scale
        v = self.horizon * self.height + (self.eye - y) * scale
        return np.stack([u, v], axis=1)


class Canvas:
    """Painted far to near.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        ids: int32 [H, W], train id + 256 * the number of the person who is seen there, from 1.
    """

    def __init__(self, camera: Camera, haze: Colour, visibility: float) -> None:
        self.camera, self.haze, self.visibility = camera, np.array(haze), visibility
        self.image = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.ids = np.full((camera.height, camera.width), VOID, np.int32)

    @property
    def labels(self) -> np.ndarray:
        """Train ids, uint8 [H, W], 255 where nothing is labelled."""
        return (self.ids % 256).astype(np.uint8)

    @property
    def owners(self) -> np.ndarray:
        """Whose pixel it is, [H, W]: the number of a person, or 0."""
        return self.ids // 256

    def fill(self, points: np.ndarray, colour: Colour, label: int | None = None) -> None:
        """One polygon [K, 2] in pixels: smooth in the image, with hard edges in the labels.

        Without a label (a window) the image alone changes.
        """
        corners = np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(self.image, [corners], colour, cv2.LINE_AA, _SUBPIXEL_BITS)
        if label is not None:
            cv2.fillPoly(self.ids, [corners], label, cv2.LINE_8, _SUBPIXEL_BITS)

    def polygon(self, points, colour: Colour, label: int | None = None) -> None:
        """One flat polygon [K, 3] in metres, cut at the near plane and dimmed by the haze."""
        points = _clip_near(np.asarray(points, float))
        if len(points) >= 3:
            clear = np.exp(-points[:, 2].mean() / self.visibility)
            mixed = np.clip(np.asarray(colour) * clear + self.haze * (1 - clear), 0, 255)
            self.fill(self.camera.project(points), tuple(mixed.tolist()), label)

    def strip(self, x1: float, x2: float, z1: float, z2: float, colour, label=None) -> None:
        """A rectangle of ground, in short pieces so that it follows the bend of the street."""
        edges = np.geomspace(max(z1, _NEAR), z2, 2 + int(8 * np.log(z2 / max(z1, _NEAR))))
        for near, far in itertools.pairwise(edges):
            self.polygon([(x1, 0, near), (x1, 0, far), (x2, 0, far), (x2, 0, near)], colour, label)

    def upright(self, x: float, z1: float, z2: float, y1: float, y2: float, *paint) -> None:
        """A rectangle that stands along the street, as a wall does."""
        self.polygon([(x, y1, z1), (x, y1, z2), (x, y2, z2), (x, y2, z1)], *paint)

    def darken(self, strips: list[tuple[float, float, float, float]], amount: float) -> None:
        """Cast a soft shadow over rectangles of ground (x1, x2, z1, z2)."""
        shade = Canvas(self.camera, (255, 255, 255), 1e9)
        for strip in strips:
            shade.strip(*strip, (255, 255, 255))
        size = max(3, self.camera.height // 100 | 1)
        dark = cv2.GaussianBlur(shade.image, (size, size), 0) * amount
        self.image = cv2.multiply(self.image, 255 - dark.astype(np.uint8), scale=1 / 255)


def _clip_near(points: np.ndarray) -> np.ndarray:
    """The part of a polygon [K, 3] ahead of the near plane (Sutherland-Hodgman with one plane)."""
    if points[:, 2].min() >= _NEAR:
        return points
    kept = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= _NEAR:
            kept.append(a)
        if (a[2] >= _NEAR) != (b[2] >= _NEAR):
            kept.append(a + (b - a) * (_NEAR - a[2]) / (b[2] - a[2]))
    return np.array(kept).reshape(-1, 3)


@dataclass
class Billboard:
    """A flat figure that stands on the ground and faces the camera: persons, bikes, signs, trees.

    Shapes [K, 2] in metres: x to the right, y up, the foot at (0, 0); ``squash`` narrows the
    figure as if it had turned away, and mirrors it where negative.
    """

    canvas: Canvas
    x: float
    z: float
    squash: float = 1.0

    def world(self, points: np.ndarray) -> np.ndarray:
        x, y = np.asarray(points, float).T
        return np.stack([self.x + x * self.squash, y, np.full(len(x), self.z)], axis=1)

    def fill(self, points, colour: Colour, label: int | None = None) -> None:
        self.canvas.polygon(self.world(points), colour, label)


@dataclass
class Solid:
    """A profile in (along, up) swept over ``width``: cars, buses, buildings.

    ``yaw`` is in radians; 0 looks down the street.
    """

    x: float
    z: float
    yaw: float
    width: float

    def world(self, along, up, across) -> np.ndarray:
        """Local metres (broadcast against each other) to world points [K, 3]."""
        along, up, across = np.broadcast_arrays(*map(np.atleast_1d, (along, up, across)))
        sin, cos = np.sin(self.yaw), np.cos(self.yaw)
        x = self.x + along * sin + across * cos
        return np.stack([x, up.astype(float), self.z + along * cos - across * sin], axis=1)

    def paint(
        self, canvas: Canvas, profile, colour: Colour, label: int, *, side=(), front=(), rear=()
    ) -> None:
        """Paint the faces turned to the camera.

        Args:
            profile: corners (along, up) [K, 2], counter-clockwise seen from across = -1.
            side, front, rear: decals, each (polygon, colour); a polygon's corners are (along, up)
                on the sides and (across, up) on the two ends.
        """
        profile = np.asarray(profile, float)
        eye, half = np.array([0.0, canvas.camera.eye, 0.0]), self.width / 2

        def turned(origin: np.ndarray, tip: np.ndarray) -> bool:
            return (tip - origin) @ (eye - origin) > 0

        faces = []
        for (a1, y1), (a2, y2) in zip(profile, np.roll(profile, -1, axis=0), strict=True):
            quad = self.world([a1, a2, a2, a1], [y1, y2, y2, y1], [-half, -half, half, half])
            normal = self.world(y2 - y1, a1 - a2, 0)[0] - self.world(0, 0, 0)[0]
            if normal @ (eye - quad.mean(axis=0)) > 0:
                # Tops catch more light than ends.
                faces.append((quad, 1.12 if a1 - a2 > abs(y2 - y1) else 0.9))
        for quad, light in sorted(faces, key=lambda face: -face[0][:, 2].mean()):
            canvas.polygon(quad, np.multiply(colour, light), label)
        for along, decals, sign in (
            (profile[:, 0].max(), front, 1),
            (profile[:, 0].min(), rear, -1),
        ):
            if turned(*self.world([along, along + sign], 1, 0)):
                for points, paint in decals:
                    across, up = np.asarray(points, float).T
                    canvas.polygon(self.world(along, up, across), paint)
        for across in (-half, half):
            if turned(*self.world(0, 1, [across, 2 * across])):
                canvas.polygon(self.world(*profile.T, across), np.multiply(colour, 0.78), label)
                for points, paint in side:
                    canvas.polygon(self.world(*np.asarray(points, float).T, across * 1.001), paint)


# ---- what a camera adds --------------------------------------------------------------------------

# Strength of the surface texture in grey levels: per-pixel grain, leaf-sized, metre-sized spots.
_TEXTURE = np.full((256, 3), (3.0, 3.0, 4.0), np.float32)
for _name, _levels in {
    "road": (6, 3, 3), "sidewalk": (6, 4, 4), "building": (4, 5, 7), "wall": (6, 9, 9),
    "vegetation": (10, 22, 12), "terrain": (13, 12, 10), "sky": (1, 1, 2), "person": (4, 6, 0),
    "rider": (4, 6, 0), "fence": (4, 4, 3),
}.items():  # fmt: skip
    _TEXTURE[ID[_name]] = _levels


def develop(canvas: Canvas, rng: Rng) -> np.ndarray:
    """Surface texture, then what a camera adds: blur, vignette, white balance, gamma, noise.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    h, w = canvas.ids.shape
    strength = _TEXTURE[canvas.labels]
    grain = rng.standard_normal((h, w), dtype=np.float32)
    texture = grain * strength[..., 0]
    texture += smooth_noise(rng, (h, w), max(h / 110, 1.5)) * strength[..., 1]
    texture += smooth_noise(rng, (h, w), h / 22) * strength[..., 2]
    image = canvas.image.astype(np.float32) + texture[..., None]
    image = cv2.GaussianBlur(image, (0, 0), max(h / 1024, 0.45) * rng.uniform(0.7, 1.1))
    rows = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None]
    cols = np.linspace(-1, 1, w, dtype=np.float32)[None]
    vignette = 1 - rng.uniform(0.05, 0.3) * (rows**2 + cols**2)
    balance = rng.normal(1, 0.03, 3).astype(np.float32) * rng.uniform(0.8, 1.15)
    image *= vignette[..., None] * balance
    image = 255 * np.power(np.clip(image / 255, 0, 1), rng.uniform(0.85, 1.2))
    image += rng.standard_normal((h, w, 1), dtype=np.float32) * rng.uniform(1.5, 5)
    return np.clip(image, 0, 255).round().astype(np.uint8)
