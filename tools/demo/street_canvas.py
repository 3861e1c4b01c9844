"""A pinhole camera over a flat street and a canvas that paints image and labels together.

World axes in metres: X to the right, Y up, Z ahead; the camera stands at X = Z = 0. Everything is
drawn as polygons with sub-pixel corners, so the image height is a free parameter of a scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from rendering import Colour, fill_both, smooth_noise

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
ID = {name: i for i, name in enumerate(CLASSES)}
VOID = 255

_NEAR = 1.5  # metres; everything closer is cut away


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
    """``image`` uint8 [H, W, 3] RGB and ``labels`` uint8 [H, W], train ids; paint far to near."""

    def __init__(self, camera: Camera, haze: Colour, visibility: float) -> None:
        self.camera, self.haze, self.visibility = camera, np.array(haze), visibility
        self.image = np.zeros((camera.height, camera.width, 3), np.uint8)
        self.labels = np.full((camera.height, camera.width), VOID, np.uint8)

    def hazed(self, colour: Colour, z: float) -> Colour:
        clear = np.exp(-z / self.visibility)
        mixed = np.clip(np.asarray(colour) * clear + self.haze * (1 - clear), 0, 255)
        return tuple(mixed.tolist())

    def fill(self, points: np.ndarray, colour: Colour, label: int | None = None) -> None:
        """One polygon [K, 2] in pixels; without a label (a window) the image alone changes."""
        fill_both(self.image, self.labels, points, colour, label)

    def polygon(self, points, colour: Colour, label: int | None = None) -> None:
        """One flat polygon [K, 3] in metres, cut at the near plane and dimmed by the haze."""
        points = _clip_near(np.asarray(points, float))
        if len(points) >= 3:
            colour = self.hazed(colour, points[:, 2].mean())
            self.fill(self.camera.project(points), colour, label)

    def strip(self, x1: float, x2: float, z1: float, z2: float, colour, label=None, y=0.0) -> None:
        """A ground rectangle, in short pieces so that it follows the bend of the street."""
        edges = np.geomspace(max(z1, _NEAR), z2, 2 + int(8 * np.log(z2 / max(z1, _NEAR))))
        left = np.stack([np.full_like(edges, x1), np.full_like(edges, y), edges], axis=1)
        right = left + np.array((x2 - x1, 0, 0))
        for i in range(len(edges) - 1):
            self.polygon([left[i], left[i + 1], right[i + 1], right[i]], colour, label)

    def darken(self, mask: np.ndarray, amount: float) -> None:
        """Cast a soft shadow: ``mask`` uint8 [H, W], 255 in full shade."""
        size = max(3, self.camera.height // 100 | 1)
        shade = cv2.GaussianBlur(mask, (size, size), 0)
        keep = cv2.merge([255 - (shade * amount).astype(np.uint8)] * 3)
        self.image = cv2.multiply(self.image, keep, scale=1 / 255)


@dataclass
class Billboard:
    """A flat figure that stands on the ground and faces the camera: persons, bikes, signs, trees.

    Local coordinates in metres: x to the right, y up, the foot at (0, 0); ``squash`` narrows the
    figure as if it had turned away, and mirrors it where negative.
    """

    canvas: Canvas
    x: float
    z: float
    squash: float = 1.0

    def fill(self, points, colour: Colour, label: int | None = None) -> None:
        points = np.asarray(points, float)
        world = np.stack(
            [self.x + points[:, 0] * self.squash, points[:, 1], np.full(len(points), self.z)],
            axis=1,
        )
        self.canvas.polygon(world, colour, label)

    def disc(self, x: float, y: float, radius, colour: Colour, label: int | None = None) -> None:
        rx, ry = radius if isinstance(radius, tuple) else (radius, radius)
        self.fill(np.array([x, y]) + _CIRCLE * (rx, ry), colour, label)

    def line(self, x1, y1, x2, y2, width: float, colour: Colour, label: int | None = None) -> None:
        start, end = np.array([x1, y1], float), np.array([x2, y2], float)
        along = (end - start) / max(np.linalg.norm(end - start), 1e-6)
        side = np.array([-along[1], along[0]]) * width / 2
        # A figure that turned away is narrower, its limbs are not thinner.
        side[0] /= self.squash
        self.fill([start + side, end + side, end - side, start - side], colour, label)


_ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


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
    ):
        """Paint the faces turned to the camera.

        Args:
            profile: corners (along, up) [K, 2], counter-clockwise seen from across = -1.
            side, front, rear: decals, each (polygon, colour); a polygon's corners are (along, up)
                on the sides and (across, up) on the two ends.
        """
        profile = np.asarray(profile, float)
        eye = np.array([0.0, canvas.camera.eye, 0.0])
        half = self.width / 2
        first, last = profile, np.roll(profile, -1, axis=0)
        faces = []
        for (a1, y1), (a2, y2) in zip(first, last, strict=True):
            quad = self.world([a1, a2, a2, a1], [y1, y2, y2, y1], [-half, -half, half, half])
            normal = self.world(y2 - y1, a1 - a2, 0)[0] - self.world(0, 0, 0)[0]
            if normal @ (eye - quad.mean(axis=0)) > 0:
                # Tops catch more light than ends.
                light = 1.12 if a1 - a2 > abs(y2 - y1) else 0.9
                faces.append((-quad[:, 2].mean(), quad, light))
        for _, quad, light in sorted(faces, key=lambda face: face[0]):
            canvas.polygon(quad, np.multiply(colour, light), label)
        ends = ((profile[:, 0].max(), front, 1), (profile[:, 0].min(), rear, -1))
        for along, decals, sign in ends:
            origin, tip = self.world([along, along + sign], 1, 0)
            if (tip - origin) @ (eye - origin) > 0:
                for points, paint in decals:
                    across, up = np.asarray(points, float).T
                    canvas.polygon(self.world(along, up, across), paint)
        for across in (-half, half):
            origin, tip = self.world(0, 1, [across, 2 * across])
            if (tip - origin) @ (eye - origin) > 0:
                along, up = profile.T
                canvas.polygon(self.world(along, up, across), np.multiply(colour, 0.78), label)
                for points, paint in side:
                    along, up = np.asarray(points, float).T
                    canvas.polygon(self.world(along, up, across * 1.001), paint)


def rect(a1: float, a2: float, b1: float, b2: float) -> list[tuple[float, float]]:
    return [(a1, b1), (a2, b1), (a2, b2), (a1, b2)]


def disc(a: float, b: float, radius: float) -> np.ndarray:
    return np.array([a, b]) + _CIRCLE * radius


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


# Strength of the surface texture in grey levels: per-pixel grain, leaf-sized, metre-sized spots.
_TEXTURE = np.full((256, 3), (3.0, 3.0, 4.0), np.float32)
for _name, _levels in {
    "road": (6, 3, 3), "sidewalk": (6, 4, 4), "building": (4, 5, 7), "wall": (6, 9, 9),
    "vegetation": (10, 22, 12), "terrain": (13, 12, 10), "sky": (1, 1, 2), "person": (4, 6, 0),
    "rider": (4, 6, 0), "fence": (4, 4, 3),
}.items():  # fmt: skip
    _TEXTURE[ID[_name]] = _levels


def develop(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Surface texture, then what a camera adds: blur, vignette, white balance, gamma, noise."""
    h, w = canvas.labels.shape
    strength = _TEXTURE[canvas.labels]
    image = canvas.image.astype(np.float32)
    grain = rng.standard_normal((h, w), dtype=np.float32)
    texture = grain * strength[..., 0]
    texture += smooth_noise(rng, (h, w), max(h / 110, 1.5)) * strength[..., 1]
    texture += smooth_noise(rng, (h, w), h / 22) * strength[..., 2]
    image += texture[..., None]
    image = cv2.GaussianBlur(image, (0, 0), max(h / 1024, 0.45) * rng.uniform(0.7, 1.1))
    rows = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None]
    cols = np.linspace(-1, 1, w, dtype=np.float32)[None]
    vignette = 1 - rng.uniform(0.05, 0.3) * (rows**2 + cols**2)
    balance = rng.normal(1, 0.03, 3).astype(np.float32) * rng.uniform(0.8, 1.15)
    image *= vignette[..., None] * balance
    image = 255 * np.power(np.clip(image / 255, 0, 1), rng.uniform(0.85, 1.2))
    image += rng.standard_normal((h, w, 1), dtype=np.float32) * rng.uniform(1.5, 5)
    return np.clip(image, 0, 255).round().astype(np.uint8)
