"""A jointed person: a random pose in three dimensions, and how it is painted.

Lengths are shares of the stature. The axes of a body are its own left, down and ahead; those of a
picture are right, down and towards the camera. A body that faces the camera (``yaw`` 0) thus has
its left at the right of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mmseg_tome.lab.demo.canvas import (
    CIRCLE,
    Billboard,
    Colour,
    Rng,
    disc,
    paint_colour,
    pick,
    vary,
)

# COCO's names in COCO's order, and its skeleton, keypoints counted from 1.
KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
SIDES = {"left": 1, "right": -1}  # direction along the first axis of the body
STATURE = 1.75  # metres

# Where the features of a face lie on the head: its own (left, down, ahead), radii of the head.
_FACE = {"nose": (0, 0.22, 0.98), "left_eye": (0.36, -0.16, 0.9), "right_eye": (-0.36, -0.16, 0.9),
         "left_ear": (0.99, 0.05, -0.05), "right_ear": (-0.99, 0.05, -0.05)}  # fmt: skip
_HEAD = 0.072  # its radius
_CHEST, _SHOULDER, _HIP = 0.29, 0.095, 0.055  # hips to shoulders; half widths
# Each limb: from and to which joint, its length, its radii at both ends, and how far it counts as
# nearer than it is: where depths are alike, an arm lies on the chest and the shirt on the trousers.
_LIMBS = {
    "upper_arm": ("shoulder", "elbow", 0.17, (0.031, 0.024), 0.02),
    "forearm": ("elbow", "wrist", 0.15, (0.024, 0.018), 0.025),
    "thigh": ("hip", "knee", 0.245, (0.046, 0.033), -0.03),
    "shin": ("knee", "ankle", 0.235, (0.032, 0.02), -0.035),
}
_EDGE = 0.62  # brightness of a part's edge, which tells an arm from the chest behind it
_DETAILED = 40  # pixels per metre; whoever is smaller needs no face


@dataclass
class Pose:
    """Joints in the axes of the picture, the middle of the hips at the origin.

    Attributes:
        joints: of each keypoint and of "neck", "head", and the hands and toes, [3].
        facing: the head's axes (left, down, ahead) as columns, [3, 3].
    """

    joints: dict[str, np.ndarray]
    facing: np.ndarray

    def on_view(self, feature: str) -> bool:
        """Whether a feature of the face is not behind the head; ears stand out a little."""
        return (self.facing @ _FACE[feature])[2] > (-0.35 if feature.endswith("ear") else 0.1)


# ---- poses ---------------------------------------------------------------------------------------

# Radians, from and to: to the side, to the front, at the elbow or knee.
_ARMS = (
    ((0.1, 0.3), (-0.2, 0.3), (0.05, 0.9)),  # hanging
    ((0.5, 1.9), (-0.2, 0.5), (0.0, 1.8)),  # to the side
    ((1.9, 2.9), (-0.1, 0.3), (0.0, 1.3)),  # raised
    ((0.0, 0.5), (0.5, 1.7), (0.1, 1.6)),  # forwards
    ((0.6, 0.9), (-0.4, 0.0), (1.5, 1.9)),  # hand on hip
)
_LEGS = (
    ((0.0, 0.15), (-0.1, 0.1), (0.0, 0.15)),  # standing
    ((0.0, 0.2), (-0.4, 0.6), (0.0, 0.8)),  # walking
    ((0.2, 0.7), (0.0, 0.4), (0.0, 0.6)),  # straddling
    ((0.1, 0.6), (0.6, 1.5), (0.5, 1.9)),  # knee up
)
_RIDING = ((0.0, 0.1), (1.0, 1.2), (0.1, 0.4)), ((0.0, 0.1), (0.9, 1.5), (0.9, 1.6))  # arm, leg


def random_pose(rng: Rng, riding: bool = False) -> Pose:
    """Joint angles within what a body can do; one in eight shows its back, riders their left."""
    yaw = rng.normal(0, 0.45) + (np.pi if rng.random() < 0.125 else 0)
    body = _rotation("z", rng.normal(0, 0.09)) @ _rotation("y", np.pi / 2 if riding else yaw)
    forwards = rng.normal(0.4, 0.05) if riding else rng.normal(0.08, 0.13)
    chest = body @ _rotation("z", rng.normal(0, 0.12)) @ _rotation("x", forwards)
    joints = {"neck": chest @ (0, -_CHEST - 0.025, 0)}
    for side, sign in SIDES.items():
        arm, leg = _RIDING if riding else (pick(rng, *_ARMS), pick(rng, *_LEGS))
        # The elbow's hinge: a forearm bends forwards, inwards and up; a shin bends back.
        hinge = (-sign * rng.uniform(0, 1), -rng.uniform(-0.2, 1), rng.uniform(0.2, 1))
        shoulder, hip = chest @ (sign * _SHOULDER, -_CHEST, 0), body @ (sign * _HIP, 0, 0)
        wrist = _add_limbs(joints, rng, chest, side, ("upper_arm", "forearm"), arm, shoulder, hinge)
        ankle = _add_limbs(joints, rng, body, side, ("thigh", "shin"), leg, hip)
        joints[f"{side}_hand"] = wrist + 0.23 * (wrist - joints[f"{side}_elbow"])
        joints[f"{side}_toe"] = ankle + body @ (sign * 0.025, 0.03, 0.05)
    nod = _rotation("x", rng.normal(0, 0.15)) @ _rotation("z", rng.normal(0, 0.12))
    facing = chest @ _rotation("y", rng.normal(0, 0.3)) @ nod
    joints["head"] = joints["neck"] + facing @ (0, -_HEAD - 0.035, 0.01)
    for name, place in _FACE.items():
        joints[name] = joints["head"] + facing @ np.multiply(place, _HEAD)
    return Pose(joints, facing)


def _add_limbs(joints, rng, axes, side, names, angles, start, hinge=None) -> np.ndarray:
    """Add an arm or a leg, which begins at ``start``; returns where it ends."""
    spread, ahead, bend = (rng.uniform(*limits) for limits in angles)
    lift = _rotation("x", -ahead)
    first = lift @ (SIDES[side] * np.sin(spread), np.cos(spread), 0)
    second = _bent(first, lift @ (0, 0, -1) if hinge is None else np.array(hinge), bend)
    for name, along in zip(names, (first, second), strict=True):
        begin, end, length, *_ = _LIMBS[name]
        joints[f"{side}_{begin}"] = start
        joints[f"{side}_{end}"] = start = start + axes @ along * length
    return start


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
    board: Billboard, rng: Rng, label: int, pose: Pose, hips: float | None = None, helmet=False
) -> tuple[np.ndarray, np.ndarray]:
    """Paint one person, the farthest part first.

    Args:
        label: of the pixels; see `Canvas.ids`.
        hips: metres above the ground; by default the lowest foot stands on it.

    Returns:
        x, y of the keypoints in pixels, [17, 2], and whether each is on the side of the person that
        faces the camera, bool [17].
    """
    if hips is None:
        hips = STATURE * max(xyz[1] for xyz in pose.joints.values())
    flat = {
        name: np.array((x, -y)) * STATURE + (0, hips) for name, (x, y, _) in pose.joints.items()
    }
    _Painter(board, rng, label, pose, flat, helmet).paint()
    pixels = board.canvas.camera.project(board.world([flat[name] for name in KEYPOINTS]))
    return pixels, np.array([name not in _FACE or pose.on_view(name) for name in KEYPOINTS])


class _Painter:
    """Paints one figure, whose clothes are random."""

    def __init__(self, board, rng, label, pose, flat, helmet) -> None:
        self.board, self.label, self.pose, self.flat = board, label, pose, flat
        skins = ((235, 196, 168), (205, 155, 120), (150, 105, 75), (95, 65, 48))
        hairs = ((40, 30, 26), (95, 62, 38), (190, 150, 90), (150, 148, 146))
        self.skin = vary(rng, pick(rng, *skins), 8)
        self.hair = paint_colour(rng) if helmet else vary(rng, pick(rng, *hairs), 8)
        self.shirt, self.trousers, self.shoes = (paint_colour(rng) for _ in range(3))
        # How far the cloth covers arms and legs: to the elbow or knee at 1, to the end at 2.
        self.sleeve = pick(rng, 0.0, 0.6, 1.0, 2.0)
        self.trouser = pick(rng, 0.5, 1.0, 2.0, 2.0)
        self.thickness = rng.uniform(0.8, 1.35) * STATURE
        self.radius = _HEAD * STATURE * (1.25 if helmet else 1)

    def paint(self) -> None:
        parts = [
            (self._depth("left_shoulder", "right_shoulder", "left_hip", "right_hip"), self._torso),
            (self._depth("neck", "head") - 0.01, self._head),
        ]
        for side in SIDES:
            for name, (start, end, *_, lift) in _LIMBS.items():
                depth = self._depth(f"{side}_{start}", f"{side}_{end}") + lift
                parts.append((depth, lambda side=side, name=name: self._limb(side, name)))
        for _, paint in sorted(parts, key=lambda part: part[0]):
            paint()

    def _depth(self, *names: str) -> float:
        """Of the middle of some joints; it grows towards the camera."""
        return sum(self.pose.joints[name][2] for name in names) / len(names)

    def _edged(self, outline: np.ndarray, inside: np.ndarray, colour: Colour) -> None:
        self.board.fill(outline, np.multiply(colour, _EDGE), self.label)
        self.board.fill(inside, colour)

    def _bar(self, start, end, radii, colour: Colour) -> None:
        """A rounded bar between two points."""
        first, last = np.multiply(radii, self.thickness)
        self._edged(
            _hull(disc(*start, first), disc(*end, last)),
            _hull(disc(*start, first * 0.8), disc(*end, last * 0.8)),
            colour,
        )

    def _limb(self, side: str, name: str) -> None:
        """Skin, the cloth over its first share, then a hand or a shoe."""
        start, end, _, (first, last), _ = _LIMBS[name]
        arm, lower = name.endswith("arm"), name in ("forearm", "shin")
        covered = np.clip((self.sleeve if arm else self.trouser) - lower, 0, 1)
        begin, stop = self.flat[f"{side}_{start}"], self.flat[f"{side}_{end}"]
        self._bar(begin, stop, (first, last), self.skin)
        if covered:
            radii = (first * 1.08, (first + (last - first) * covered) * 1.12)
            cloth = self.shirt if arm else self.trousers
            self._bar(begin, begin + (stop - begin) * covered, radii, cloth)
        if lower:
            tip = self.flat[f"{side}_hand" if arm else f"{side}_toe"]
            self._bar(stop, tip, (0.022, 0.02), self.skin if arm else self.shoes)

    def _torso(self) -> None:
        self._bar(self.flat["neck"], self.flat["head"], (0.028, 0.028), self.skin)
        hips = [self.flat["left_hip"], self.flat["right_hip"]]
        shoulders = [self.flat["left_shoulder"], self.flat["right_shoulder"]]
        waist = [h + 0.45 * (s - h) for h, s in zip(hips, shoulders, strict=True)]
        rings = ((hips, 0.05), (waist, 0.04), (shoulders, 0.035))

        def outline(share: float) -> np.ndarray:
            return _hull(*(disc(*p, r * self.thickness * share) for pair, r in rings for p in pair))

        self._edged(outline(1), outline(0.85), self.shirt)

    def _head(self) -> None:
        centre, radius, pose = self.flat["head"], self.radius, self.pose
        self.board.fill(disc(*centre, radius * 1.06), np.multiply(self.hair, 0.8), self.label)
        if self.board.canvas.camera.scale(self.board.z) < _DETAILED:
            self.board.fill(disc(*(centre - (0, radius * 0.3)), radius * 0.7), self.skin)
            return
        for side in SIDES:
            if pose.on_view(f"{side}_ear"):
                self.board.fill(
                    disc(*self.flat[f"{side}_ear"], radius * 0.24), self.skin, self.label
                )
        cap = (pose.facing @ _FACE_CAP).T
        behind = cap[:, 2] < 0
        if not behind.all():
            # What of the face lies behind the rim of the head ends at the rim.
            rim = np.linalg.norm(cap[behind, :2], axis=1, keepdims=True)
            cap[behind, :2] /= np.maximum(rim, 1e-6)
            self.board.fill(_hull(centre + cap[:, :2] * (radius, -radius)), self.skin)
        dark, white, black = np.multiply(self.skin, 0.72), (240, 240, 238), (25, 25, 30)
        for name, share, colour in (
            ("left_eye", 0.2, white), ("left_eye", 0.12, black), ("right_eye", 0.2, white),
            ("right_eye", 0.12, black), ("nose", 0.17, dark),
        ):  # fmt: skip
            if pose.on_view(name):
                self.board.fill(disc(*self.flat[name], radius * share), colour)


# Rim of the skin of a face on the unit sphere of a head: [3, K].
_FACE_CAP = np.stack([0.86 * CIRCLE[:, 0], 0.15 + 0.8 * CIRCLE[:, 1], 0.0 * CIRCLE[:, 0]])
_FACE_CAP[2] = np.sqrt(np.clip(1 - (_FACE_CAP[:2] ** 2).sum(axis=0), 0, 1))


def _hull(*points: np.ndarray) -> np.ndarray:
    return cv2.convexHull(np.concatenate(points).astype(np.float32))[:, 0]
