"""A jointed figure: a random pose in three dimensions, and how it is painted.

Lengths are shares of the stature. The axes of a body are its own left, down and ahead; those of a
picture are right, down and towards the camera. A body that faces the camera (``yaw`` 0) thus has
its left at the right of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from rendering import Colour, Rng, fill_both, pick, vary

# COCO's names in COCO's order.
KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
Paint = Callable[[], None]
SIDES = {"left": 1, "right": -1}  # direction along the first axis of the body
PARTS = (
    "head", "neck", "torso", "left_upper_arm", "right_upper_arm", "left_forearm", "right_forearm",
    "left_thigh", "right_thigh", "left_shin", "right_shin",
)  # fmt: skip
# Parts that show a keypoint where they lie on top of it.
_SHOWN_BY = {"shoulder": ("upper_arm", "torso", "neck"), "elbow": ("upper_arm", "forearm"),
             "wrist": ("forearm",), "hip": ("thigh", "torso"), "knee": ("thigh", "shin"),
             "ankle": ("shin",)}  # fmt: skip
# Where the features of a face lie on the head: its own (left, down, ahead), radii of the head.
_FACE = {"nose": (0, 0.22, 0.98), "left_eye": (0.36, -0.16, 0.9), "right_eye": (-0.36, -0.16, 0.9),
         "left_ear": (0.99, 0.05, -0.05), "right_ear": (-0.99, 0.05, -0.05)}  # fmt: skip
_HEAD = 0.072  # its radius
_CHEST, _SHOULDER, _HIP = 0.29, 0.095, 0.055  # hips to shoulders; half widths
_LENGTHS = {"upper_arm": 0.17, "forearm": 0.15, "hand": 0.035, "thigh": 0.245, "shin": 0.235}
# Radii of a limb at both ends.
_RADII = {"upper_arm": (0.031, 0.024), "forearm": (0.024, 0.018), "thigh": (0.046, 0.033),
          "shin": (0.032, 0.02), "neck": (0.028, 0.028)}  # fmt: skip
# From and to which joint, what comes after it, and how far it counts as nearer than it is: where
# depths are alike, an arm lies on the chest and the shirt on the trousers.
_LIMBS = {"upper_arm": ("shoulder", "elbow", None, 0.02),
          "forearm": ("elbow", "wrist", "hand", 0.025),
          "thigh": ("hip", "knee", None, -0.03),
          "shin": ("knee", "ankle", "toe", -0.035)}  # fmt: skip
_OUTLINE = 0.62  # brightness of a part's edge, which tells an arm from the chest behind it


@dataclass
class Pose:
    """Joints in the axes of the picture, the middle of the hips at the origin.

    Attributes:
        joints: of each keypoint and of "neck", "head", and the hands and toes, [3].
        facing: the head's axes (left, down, ahead) as columns, [3, 3].
    """

    joints: dict[str, np.ndarray]
    facing: np.ndarray


@dataclass
class Look:
    """What a figure wears; each colour RGB.

    ``sleeve`` and ``trouser`` are how far the cloth covers the arm and the leg, 0 to 2: to the
    elbow or knee at 1, to the hand or foot at 2.
    """

    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    sleeve: float
    trouser: float
    thickness: float


def cloth_colour(rng: Rng) -> Colour:
    colours = (
        (40, 42, 50), (225, 225, 220), (140, 145, 150), (165, 40, 42), (45, 75, 150),
        (60, 110, 70), (205, 170, 70), (115, 70, 120), (80, 150, 175), (200, 110, 60),
    )  # fmt: skip
    return vary(rng, pick(rng, *colours))


def random_look(rng: Rng) -> Look:
    return Look(
        skin=vary(
            rng, pick(rng, (235, 196, 168), (205, 155, 120), (150, 105, 75), (95, 65, 48)), 8
        ),
        hair=vary(rng, pick(rng, (40, 30, 26), (95, 62, 38), (190, 150, 90), (150, 148, 146)), 8),
        shirt=cloth_colour(rng),
        trousers=cloth_colour(rng),
        shoes=cloth_colour(rng),
        sleeve=pick(rng, 0.0, 0.6, 1.0, 2.0),
        trouser=pick(rng, 0.5, 1.0, 2.0, 2.0),
        thickness=rng.uniform(0.8, 1.35),
    )


# ---- poses ---------------------------------------------------------------------------------------


def random_pose(rng: Rng) -> Pose:
    """Joint angles within what a body can do; one in eight shows its back."""
    yaw = rng.normal(0, 0.45) + (np.pi if rng.random() < 0.125 else 0)
    body = _rotation("z", rng.normal(0, 0.09)) @ _rotation("y", yaw)
    lean = _rotation("z", rng.normal(0, 0.12)) @ _rotation("x", rng.normal(0.08, 0.13))
    chest = body @ lean
    joints = {"neck": chest @ (0, -_CHEST - 0.025, 0)}
    for side in SIDES:
        _add_arm(joints, side, chest, rng)
        _add_leg(joints, side, body, rng)
    nod = _rotation("x", rng.normal(0, 0.15)) @ _rotation("z", rng.normal(0, 0.12))
    facing = chest @ _rotation("y", rng.normal(0, 0.3)) @ nod
    joints["head"] = joints["neck"] + facing @ (0, -_HEAD - 0.035, 0.01)
    for name, place in _FACE.items():
        joints[name] = joints["head"] + facing @ np.multiply(place, _HEAD)
    return Pose(joints, facing)


def _add_arm(joints: dict, side: str, chest: np.ndarray, rng: Rng) -> None:
    sign = SIDES[side]
    spread, ahead, bend = pick(  # radians: to the side, to the front, at the elbow
        rng,
        (rng.normal(0.2, 0.1), rng.normal(0.05, 0.25), rng.uniform(0.05, 0.9)),  # hanging
        (rng.uniform(0.5, 1.9), rng.uniform(-0.2, 0.5), rng.uniform(0.0, 1.8)),  # to the side
        (rng.uniform(1.9, 2.9), rng.uniform(-0.1, 0.3), rng.uniform(0.0, 1.3)),  # raised
        (rng.uniform(0.0, 0.5), rng.uniform(0.5, 1.7), rng.uniform(0.1, 1.6)),  # forwards
        (rng.uniform(0.6, 0.9), rng.uniform(-0.4, 0.0), rng.uniform(1.5, 1.9)),  # hand on hip
    )
    upper = _rotation("x", -ahead) @ (sign * np.sin(spread), np.cos(spread), 0)
    # The elbow's hinge: a forearm bends forwards, inwards and up.
    towards = (-sign * rng.uniform(0, 1), -rng.uniform(-0.2, 1), rng.uniform(0.2, 1))
    fore = _bent(upper, np.array(towards), bend)
    shoulder = chest @ (sign * _SHOULDER, -_CHEST, 0)
    elbow = shoulder + chest @ upper * _LENGTHS["upper_arm"]
    wrist = elbow + chest @ fore * _LENGTHS["forearm"]
    hand = wrist + chest @ fore * _LENGTHS["hand"]
    names = (f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hand"))
    joints.update(zip(names, (shoulder, elbow, wrist, hand), strict=True))


def _add_leg(joints: dict, side: str, body: np.ndarray, rng: Rng) -> None:
    sign = SIDES[side]
    spread, ahead, bend = pick(
        rng,
        (rng.uniform(0.0, 0.15), rng.normal(0, 0.08), rng.uniform(0, 0.15)),  # standing
        (rng.uniform(0.0, 0.2), rng.uniform(-0.4, 0.6), rng.uniform(0, 0.8)),  # walking
        (rng.uniform(0.2, 0.7), rng.uniform(0, 0.4), rng.uniform(0, 0.6)),  # straddling
        (rng.uniform(0.1, 0.6), rng.uniform(0.6, 1.5), rng.uniform(0.5, 1.9)),  # knee up
    )
    lift = _rotation("x", -ahead)
    thigh = lift @ (sign * np.sin(spread), np.cos(spread), 0)
    shin = _bent(thigh, lift @ (0, 0, -1), bend)
    hip = body @ (sign * _HIP, 0, 0)
    knee = hip + body @ thigh * _LENGTHS["thigh"]
    ankle = knee + body @ shin * _LENGTHS["shin"]
    toe = ankle + body @ (sign * 0.025, 0.03, 0.05)
    names = (f"{side}_{part}" for part in ("hip", "knee", "ankle", "toe"))
    joints.update(zip(names, (hip, knee, ankle, toe), strict=True))


def _bent(along: np.ndarray, towards: np.ndarray, angle: float) -> np.ndarray:
    """The unit vector ``along`` turned by ``angle`` towards another direction."""
    across = towards - (towards @ along) * along
    across /= max(np.linalg.norm(across), 1e-6)
    return np.cos(angle) * along + np.sin(angle) * across


def _rotation(axis: str, angle: float) -> np.ndarray:
    """[3, 3]; about x forwards (a head nods), about y to its own left, about z sideways."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array(
        {
            "x": ((1, 0, 0), (0, c, s), (0, -s, c)),
            "y": ((c, 0, s), (0, 1, 0), (-s, 0, c)),
            "z": ((c, -s, 0), (s, c, 0), (0, 0, 1)),
        }[axis]
    )


# ---- painting ------------------------------------------------------------------------------------


def paint_figure(
    image: np.ndarray,
    owners: np.ndarray,
    pose: Pose,
    look: Look,
    origin: tuple[float, float],
    stature: float,
    first_owner: int,
) -> dict[str, np.ndarray]:
    """Paint one figure, its farthest part first.

    Args:
        image: uint8 [H, W, 3] RGB, painted on.
        owners: uint8 [H, W]; pixels become ``first_owner`` + the number of the part in `PARTS`.
        origin: x, y of the middle of the hips in pixels.
        stature: in pixels.

    Returns:
        x, y of each keypoint in pixels, [2].
    """
    flat = {name: xyz[:2] * stature + origin for name, xyz in pose.joints.items()}
    painter = _Painter(image, owners, stature, first_owner)
    for _, paint in sorted(_parts(painter, pose, flat, look), key=lambda item: item[0]):
        paint()
    return {name: flat[name] for name in KEYPOINTS}


def visible(
    pose: Pose, keypoint: str, xy: np.ndarray, owners: np.ndarray, first_owner: int
) -> bool:
    """Whether a keypoint inside the picture can be seen: a part that shows it lies on top."""
    if keypoint in _FACE:
        parts = ["head"] if _on_view(pose, keypoint) else []
    else:
        side, _, joint = keypoint.partition("_")
        parts = [part if part in PARTS else f"{side}_{part}" for part in _SHOWN_BY[joint]]
    x, y = np.round(xy).astype(int)
    return owners[y, x] in [first_owner + PARTS.index(part) for part in parts]


def _on_view(pose: Pose, feature: str) -> bool:
    """Whether a feature of the face is not behind the head; ears stand out a little."""
    return (pose.facing @ _FACE[feature])[2] > (-0.35 if feature.endswith("ear") else 0.1)


@dataclass
class _Painter:
    image: np.ndarray
    owners: np.ndarray
    stature: float
    first_owner: int

    def fill(self, points: np.ndarray, colour: Colour, part: str | None) -> None:
        owner = None if part is None else self.first_owner + PARTS.index(part)
        fill_both(self.image, self.owners, points, colour, owner)

    def limb(self, start, end, radii, colour: Colour, part: str | None, edge: bool = True) -> None:
        """A rounded bar between two points; radii in shares of the stature."""
        first, last = np.multiply(radii, self.stature)
        if edge:
            rim = np.multiply(colour, _OUTLINE)
            self.fill(_capsule(start, end, first, last), rim, part)
            first, last = (max(radius - 1.2, 0.6) for radius in (first, last))
            part = None
        self.fill(_capsule(start, end, first, last), colour, part)


def _parts(
    painter: _Painter, pose: Pose, flat: dict[str, np.ndarray], look: Look
) -> Iterator[tuple[float, Paint]]:
    """(depth, how to paint it) of each part; depth grows towards the camera."""

    def depth(*names: str) -> float:
        return sum(pose.joints[name][2] for name in names) / len(names)

    for side in SIDES:
        for part, (start, end, _, lift) in _LIMBS.items():
            paint = partial(_paint_limb, painter, flat, look, side, part)
            yield depth(f"{side}_{start}", f"{side}_{end}") + lift, paint
    chest = depth("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    yield chest, partial(_paint_torso, painter, flat, look)
    yield depth("neck", "head") - 0.01, partial(_paint_head, painter, pose, flat, look)


def _paint_limb(painter: _Painter, flat: dict, look: Look, side: str, part: str) -> None:
    """Skin, the cloth over its first share, then a hand or a shoe."""
    start, end, tip, _ = _LIMBS[part]
    arm, lower = part.endswith("arm"), tip is not None
    covered = (look.sleeve if arm else look.trouser) - lower
    owner, (first, last) = f"{side}_{part}", np.multiply(_RADII[part], look.thickness)
    start, end = flat[f"{side}_{start}"], flat[f"{side}_{end}"]
    if covered < 1:
        painter.limb(start, end, (first, last), look.skin, owner)
    if covered > 0:
        share = min(covered, 1.0)
        radii = (first * 1.08, (first + (last - first) * share) * 1.12)
        cloth = look.shirt if arm else look.trousers
        painter.limb(start, start + (end - start) * share, radii, cloth, owner)
    if lower:
        radius = (0.021 if arm else 0.024) * look.thickness
        colour = look.skin if arm else look.shoes
        painter.limb(end, flat[f"{side}_{tip}"], (radius, radius * 0.85), colour, owner, not arm)


def _paint_torso(painter: _Painter, flat: dict, look: Look) -> None:
    neck_radii = np.multiply(_RADII["neck"], look.thickness)
    painter.limb(flat["neck"], flat["head"], neck_radii, look.skin, "neck")
    hips = [flat["left_hip"], flat["right_hip"]]
    shoulders = [flat["left_shoulder"], flat["right_shoulder"]]
    waist = [h + 0.45 * (s - h) for h, s in zip(hips, shoulders, strict=True)]
    radii = (0.05, 0.04, 0.035)

    def outline(shrink: float) -> np.ndarray:
        points = [
            _circle(p, max(radius * look.thickness * painter.stature - shrink, 1))
            for pair, radius in zip((hips, waist, shoulders), radii, strict=True)
            for p in pair
        ]
        return _hull(np.concatenate(points))

    painter.fill(outline(0), np.multiply(look.shirt, _OUTLINE), "torso")
    painter.fill(outline(1.2), look.shirt, None)


def _paint_head(painter: _Painter, pose: Pose, flat: dict, look: Look) -> None:
    centre, radius = flat["head"], _HEAD * painter.stature
    painter.fill(_circle(centre, radius * 1.06), np.multiply(look.hair, 0.8), "head")
    for side in SIDES:
        if _on_view(pose, f"{side}_ear"):
            painter.fill(_circle(flat[f"{side}_ear"], radius * 0.24), look.skin, "head")
    on_sphere = (pose.facing @ _FACE_CAP).T
    behind = on_sphere[:, 2] < 0
    if not behind.all():
        # What of the face lies behind the rim of the head ends at the rim.
        rim = np.linalg.norm(on_sphere[behind, :2], axis=1, keepdims=True)
        on_sphere[behind, :2] /= np.maximum(rim, 1e-6)
        painter.fill(_hull(centre + on_sphere[:, :2] * radius), look.skin, "head")
    if (pose.facing @ _MOUTH)[2].min() > 0:
        mouth = centre + (pose.facing @ _MOUTH)[:2].T * radius
        painter.fill(mouth, np.multiply(look.skin, 0.5), None)
    for name in ("left_eye", "right_eye", "nose"):
        if not _on_view(pose, name):
            continue
        if name == "nose":
            painter.fill(_circle(flat[name], radius * 0.17), np.multiply(look.skin, 0.72), None)
        else:
            painter.fill(_circle(flat[name], radius * 0.2), (240, 240, 238), None)
            painter.fill(_circle(flat[name], radius * 0.12), (25, 25, 30), None)


_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_UNIT = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
# Rim of the skin of a face, and a mouth, on the unit sphere of a head: [3, K].
_FACE_CAP = np.stack([0.86 * _UNIT[:, 0], 0.15 + 0.8 * _UNIT[:, 1], 0.0 * _ANGLES])
_FACE_CAP[2] = np.sqrt(np.clip(1 - (_FACE_CAP[:2] ** 2).sum(axis=0), 0, 1))
_MOUTH = np.array([(-0.28, 0.52, 0.8), (0.28, 0.52, 0.8), (0.2, 0.64, 0.74), (-0.2, 0.64, 0.74)]).T


def _circle(centre: np.ndarray, radius: float) -> np.ndarray:
    return centre + _UNIT * radius


def _capsule(start: np.ndarray, end: np.ndarray, first: float, last: float) -> np.ndarray:
    return _hull(np.concatenate([_circle(start, first), _circle(end, last)]))


def _hull(points: np.ndarray) -> np.ndarray:
    return cv2.convexHull(points.astype(np.float32))[:, 0]
