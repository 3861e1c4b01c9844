"""What stands in a street: each function paints one object, all sizes in metres."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from mmseg_tome.lab.demo.canvas import (
    ID,
    VOID,
    Billboard,
    Canvas,
    Rng,
    Solid,
    bar,
    disc,
    paint_colour,
    pick,
    rect,
    vary,
)
from mmseg_tome.lab.demo.figure import paint_figure, random_pose

GLASS, TYRE, METAL = (52, 62, 72), (24, 24, 26), (120, 122, 124)
RED_LIGHT, HEADLIGHT = (205, 30, 32), (240, 238, 215)


# ---- vehicles ------------------------------------------------------------------------------------


def _wheels(positions, radius: float) -> list:
    rings = ((1.0, TYRE), (0.55, METAL))
    return [(disc(a, radius, radius * r), colour) for r, colour in rings for a in positions]


def _lights(half: float, up: float, size: float, colour) -> list:
    """A pair of them at both edges of an end that is two ``half`` wide."""
    inner, outer = half * 0.92 - size * 1.5, half * 0.92
    return [(rect(*sorted((s * inner, s * outer)), up, up + size), colour) for s in (-1, 1)]


def _windows(half: float, up: tuple[float, float], pitch: float) -> list:
    edges = np.linspace(-half, half, max(int(2 * half / pitch), 1) + 1)
    return [(rect(a + 0.06, b - 0.06, *up), GLASS) for a, b in pairwise(edges)]


def car(canvas: Canvas, rng: Rng, x: float, z: float, yaw: float) -> None:
    half, w, height = rng.uniform(1.85, 2.4), rng.uniform(0.85, 0.95), rng.uniform(1.4, 1.75)
    belt, top, estate = height * 0.58, height - 0.1, rng.random() < 0.5
    tail, back, front = (
        -half * (0.97 if estate else 0.78),
        -half * (0.85 if estate else 0.5),
        half / 5,
    )
    profile = [
        (-half, 0.28), (half, 0.28), (half, belt * 0.85), (half * 0.5, belt), (front, height),
        (back, height), (tail, belt), (-half, belt * 0.95),
    ]  # fmt: skip
    windows = [
        ([(tail + 0.3, belt), (0, belt), (0, top), (back + 0.1, top)], GLASS),
        ([(0.08, belt), (half * 0.43, belt), (front - 0.02, top), (0.08, top)], GLASS),
    ]
    window = [(-w * 0.85, belt), (w * 0.85, belt), (w * 0.7, top), (-w * 0.7, top)]
    ends = [(rect(-w, w, 0.28, 0.45), (45, 45, 48)), (window, GLASS)]
    grille, plate = (rect(-w * 0.6, w * 0.6, 0.5, 0.66), TYRE), rect(-0.26, 0.26, 0.52, 0.64)
    Solid(x, z, yaw, 2 * w).paint(
        canvas, profile, paint_colour(rng), ID["car"],
        side=windows + _wheels((-half * 0.62, half * 0.62), 0.33),
        front=[*ends, grille, *_lights(w, 0.64, 0.17, HEADLIGHT)],
        rear=[*ends, *_lights(w, 0.7, 0.19, RED_LIGHT), (plate, HEADLIGHT)],
    )  # fmt: skip


def truck(canvas: Canvas, rng: Rng, x: float, z: float, yaw: float) -> None:
    half, w, height, cab = rng.uniform(3.25, 4.75), 1.2, rng.uniform(2.9, 3.6), 1.0
    h, box, along = height * 0.82, half - cab - 0.15, np.array([np.sin(yaw), np.cos(yaw)])
    cabin, cargo = (
        Solid(*(np.array([x, z]) + along * shift), yaw, 2 * w) for shift in (half - cab, -cab)
    )
    white = (228, 228, 224)
    parts = [
        (cabin, [(-cab, 0.45), (cab, 0.45), (cab, h * 0.55), (cab * 0.76, h), (-cab, h)],
         paint_colour(rng), dict(
            side=[(rect(-0.4, cab * 0.72, h * 0.55, h * 0.85), GLASS), *_wheels((0.2,), 0.48)],
            front=[(rect(-w * 0.9, w * 0.9, h * 0.54, h * 0.88), GLASS),
                   (rect(-w, w, 0.45, 0.75), (40, 40, 42)), *_lights(w, 0.8, 0.2, HEADLIGHT)])),
        (cargo, rect(-box, box, 0.8, height),
         pick(rng, white, paint_colour(rng), (200, 180, 120), (96, 104, 84)), dict(
            side=[(rect(-box, box, 0.8, 1.0), (60, 60, 62)),
                  (rect(-box * 0.7, box * 0.7, 1.6, height - 0.5), vary(rng, (150, 150, 150), 50)),
                  *_wheels((-box * 0.8, -box * 0.45), 0.48)],
            rear=[(rect(-0.03, 0.03, 1.0, height - 0.1), (70, 70, 70)),
                  (rect(-w, -w * 0.7, 0.3, 0.8), TYRE), (rect(w * 0.7, w, 0.3, 0.8), TYRE),
                  *_lights(w, 0.8, 0.16, RED_LIGHT)])),
    ]  # fmt: skip
    for solid, profile, colour, decals in sorted(parts, key=lambda part: -part[0].z):
        solid.paint(canvas, profile, colour, ID["truck"], **decals)


def bus(canvas: Canvas, rng: Rng, x: float, z: float, yaw: float) -> None:
    half, w, height = rng.uniform(5.0, 6.2), 1.25, rng.uniform(3.0, 3.3)
    colours = ((198, 40, 36), (222, 182, 40), (232, 232, 228), (40, 96, 160), (70, 140, 80))
    profile = [
        (-half, 0.3),
        (half, 0.3),
        (half, height - 0.2),
        (half - 0.3, height),
        (-half, height),
    ]
    Solid(x, z, yaw, 2 * w).paint(
        canvas, profile, vary(rng, pick(rng, *colours)), ID["bus"],
        side=[
            *_windows(half - 0.4, (1.35, height - 0.55), 1.5),
            (rect(-half, half, 0.3, 0.55), (50, 50, 54)), *_wheels((-half * 0.55, half * 0.6), 0.5),
        ],
        front=[
            (rect(-w * 0.92, w * 0.92, 1.0, height - 0.6), GLASS),
            (rect(-w * 0.7, w * 0.7, height - 0.5, height - 0.2), (20, 20, 20)),
            (rect(-w * 0.5, w * 0.4, height - 0.42, height - 0.27), (250, 170, 30)),
            *_lights(w, 0.6, 0.22, HEADLIGHT),
        ],
        rear=[
            (rect(-w * 0.85, w * 0.85, 1.7, height - 0.5), GLASS),
            (rect(-w * 0.8, w * 0.8, 0.6, 1.2), (60, 60, 62)), *_lights(w, 1.25, 0.3, RED_LIGHT),
        ],
    )  # fmt: skip


def train(canvas: Canvas, rng: Rng, x: float, z: float, yaw: float) -> None:
    """A tram: two cars, higher than a bus, two colours, a pantograph."""
    half, w, height, slant = rng.uniform(6.5, 8), 1.2, rng.uniform(3.5, 3.8), 0.7
    colour = pick(rng, (216, 200, 60), (226, 226, 220), (170, 30, 40), (60, 130, 120))
    skirt, door = pick(rng, (60, 64, 70), (160, 28, 34), (36, 70, 120)), vary(rng, (90, 96, 104))
    end = [
        (rect(-w, w, 0.25, 1.1), skirt), (rect(-w * 0.85, w * 0.85, 1.4, height - 0.7), GLASS),
        (rect(-w * 0.5, w * 0.5, height - 0.5, height - 0.2), (250, 180, 60)),
        *_lights(w, 0.8, 0.2, HEADLIGHT),
    ]  # fmt: skip
    side = [
        (rect(-half, half, 0.25, 1.15), skirt), *_windows(half - 0.8, (1.5, height - 0.9), 1.1),
        (rect(-0.65, 0.65, 0.5, height - 0.8), door),
    ]  # fmt: skip
    step = np.array([np.sin(yaw), np.cos(yaw)]) * (half + 0.3)
    for sign in sorted((-1, 1), key=lambda s: -s * step[1]):
        front, rear = slant * (sign > 0), slant * (sign < 0)
        profile = [(-half, 0.25), (half, 0.25), (half, 1.4), (half - front, height),
                   (-half + rear, height), (-half, 1.4)]  # fmt: skip
        car = Solid(x + sign * step[0], z + sign * step[1], yaw, 2 * w)
        car.paint(canvas, profile, colour, ID["train"], front=end, rear=end, side=side)
    mast = Billboard(canvas, x, z)
    for elbow in ((-0.7, height + 0.6), (0.7, height + 0.6)):
        mast.fill(bar((0, height), elbow, 0.06), METAL, ID["train"])
        mast.fill(bar(elbow, (0, height + 1.2), 0.06), METAL, ID["train"])


# ---- people and bikes ----------------------------------------------------------------------------


def person(canvas: Canvas, rng: Rng, x: float, z: float, number: int = 0) -> tuple:
    """Someone on foot whose pixels are marked with a number; returns what `paint_figure` does."""
    label = ID["person"] + 256 * number
    return paint_figure(Billboard(canvas, x, z), rng, label, random_pose(rng))


def bicycle(canvas: Canvas, rng: Rng, x: float, z: float, ridden: bool) -> None:
    board = Billboard(canvas, x, z, pick(rng, -1, 1) * rng.uniform(0.4, 1))
    frame, label = paint_colour(rng), ID["bicycle"]
    for hub in (-0.53, 0.53):
        board.fill(disc(hub, 0.34, 0.35), TYRE, label)
        # The road shows between the spokes; the label covers the wheel, as in Cityscapes.
        board.fill(disc(hub, 0.34, 0.28), (118, 116, 114))
        board.fill(bar((hub, 0.06), (hub, 0.62), 0.03), METAL)
    hub, crank, head, saddle = (-0.53, 0.34), (-0.02, 0.3), (0.42, 0.8), (-0.18, 0.78)
    for start, end in ((hub, crank), (crank, head), (head, saddle), (saddle, crank), (hub, saddle),
                       ((0.53, 0.34), (0.4, 0.98))):  # fmt: skip
        board.fill(bar(start, end, 0.06), frame, label)
    board.fill(bar((0.36, 1.0), (0.62, 1.02), 0.06), TYRE, label)
    board.fill(bar((-0.32, 0.92), (-0.06, 0.92), 0.09), TYRE, label)
    if ridden:
        pose, helmet = random_pose(rng, riding=True), rng.random() < 0.6
        paint_figure(board, rng, ID["rider"], pose, hips=0.98, helmet=helmet)


def motorcycle(canvas: Canvas, rng: Rng, x: float, z: float, ridden: bool) -> None:
    board = Billboard(canvas, x, z, pick(rng, -1, 1) * rng.uniform(0.4, 1))
    label, paint = ID["motorcycle"], paint_colour(rng)
    for hub in (-0.68, 0.68):
        board.fill(disc(hub, 0.31, 0.33), TYRE, label)
        board.fill(disc(hub, 0.31, 0.15), METAL, label)
    for points, colour in (
        ([(-0.55, 0.3), (0.45, 0.25), (0.55, 0.75), (-0.6, 0.72)], (58, 58, 62)),
        ([(-0.95, 0.62), (0.1, 0.7), (0.05, 0.86), (-0.9, 0.86)], TYRE),
        ([(-0.1, 0.6), (0.6, 0.5), (0.62, 0.95), (0.35, 1.0), (0.0, 0.88)], paint),
        (bar((0.68, 0.31), (0.42, 1.05), 0.1), METAL),
        (bar((0.3, 1.1), (0.56, 1.02), 0.07), TYRE),
        (disc(0.62, 0.88, 0.11), HEADLIGHT),
    ):
        board.fill(points, colour, label)
    if ridden:
        pose = random_pose(rng, riding=True)
        paint_figure(board, rng, ID["rider"], pose, hips=0.92, helmet=True)


# ---- street furniture ----------------------------------------------------------------------------


def lamp_post(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board, height, reach = Billboard(canvas, x, z), rng.uniform(5.5, 8.5), rng.uniform(0.8, 2.2)
    colour = vary(rng, pick(rng, (92, 96, 98), (150, 152, 150), (60, 66, 62)), 10)
    end = np.array([-np.sign(x) * reach, height + 0.35])
    board.fill(bar((0, 0), (0, height), rng.uniform(0.13, 0.2)), colour, ID["pole"])
    board.fill(bar((0, height), end, 0.1), colour, ID["pole"])
    board.fill(end + rect(-0.35, 0.35, -0.15, 0.05), (196, 196, 186), ID["pole"])


def bollard(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board, colour = Billboard(canvas, x, z), vary(rng, pick(rng, (70, 70, 72), (150, 60, 50)))
    board.fill(bar((0, 0), (0, 1.0), 0.14), colour, ID["pole"])
    board.fill(bar((0, 0.75), (0, 0.9), 0.14), (230, 230, 230), ID["pole"])


def traffic_light(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board, steel = Billboard(canvas, x, z), vary(rng, (110, 114, 116), 10)
    heads, poles = [(0.0, 3.2)], [((0, 0), (0, 3.2))]
    if rng.random() < 0.5:  # a gantry over the lane
        reach = -np.sign(x) * rng.uniform(2.0, 3.2)
        poles += [((0, 3.0), (0, 5.8)), ((0, 5.8), (reach, 5.8))]
        heads.append((reach, 5.4))
    for start, end in poles:
        board.fill(bar(start, end, 0.13), steel, ID["pole"])
    lit = rng.integers(3)
    for head in heads:
        board.fill(head + rect(-0.22, 0.22, -0.55, 0.55), (34, 36, 38), ID["traffic light"])
        for i, colour in enumerate(((230, 40, 30), (240, 170, 30), (50, 210, 110))):
            lamp = disc(head[0], head[1] + 0.34 * (1 - i), 0.14)
            board.fill(lamp, colour if i == lit else np.multiply(colour, 0.3))


def traffic_sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board, y = Billboard(canvas, x, z, rng.uniform(0.8, 1)), rng.uniform(2.1, 2.7)
    r, wide = rng.uniform(0.33, 0.45), rng.uniform(1.2, 2)
    red, blue, white, yellow, dark = (
        (190, 30, 36), (36, 84, 170), (232, 232, 230), (236, 196, 50), (50, 50, 56),
    )  # fmt: skip
    triangle = np.array([(-1, -0.7), (1, -0.7), (0, 1)])
    diamond = np.array([(-1, 0), (0, -1), (1, 0), (0, 1)])
    kinds = (
        [(disc(0, 0, 1), red), (disc(0, 0, 0.74), white), (rect(-0.35, 0.35, -0.3, 0.3), dark)],
        [(triangle, red), (triangle * 0.62, white)],  # a warning; above, a limit
        [(disc(0, 0, 1), blue), (bar((0, -0.6), (0, 0.5), 0.25), white)],
        [(diamond, white), (diamond * 0.75, yellow)],  # priority; above, a direction
        [(rect(-wide, wide, -1, 1), pick(rng, blue, yellow, white))]
        + [(rect(-wide * 0.8, wide * 0.6, up, up + 0.2), dark) for up in (-0.5, 0.0, 0.4)],
    )
    board.fill(bar((0, 0), (0, y), 0.09), vary(rng, (140, 142, 142), 10), ID["pole"])
    for points, colour in pick(rng, *kinds):
        board.fill((0, y) + points * r, colour, ID["traffic sign"])


def litter_bin(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """'static' in Cityscapes, so void here."""
    colour = vary(rng, pick(rng, (70, 74, 70), (190, 110, 40)))
    Billboard(canvas, x, z).fill(rect(-0.3, 0.3, 0, 1.0), colour, VOID)


# ---- the sides of the street ---------------------------------------------------------------------


def tree(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A trunk under a cloud of leaves: dark blobs below and behind, light ones above."""
    board, height, label = Billboard(canvas, x, z), rng.uniform(5, 10), ID["vegetation"]
    trunk = bar((0, 0), (rng.normal(0, 0.2), height * 0.6), rng.uniform(0.22, 0.4))
    board.fill(trunk, (74, 60, 48), label)
    rx, ry = height * rng.uniform(0.2, 0.32), height * 0.3
    greens = ((66, 96, 44), (84, 112, 50), (52, 82, 52), (128, 118, 48), (98, 106, 70))
    base, count = np.array(pick(rng, *greens)), 34 if z < 30 else 14
    # Fibonacci spacing fills the crown evenly; a random walk would leave holes.
    turns, radius = np.arange(count) * 2.399963, np.sqrt((np.arange(count) + 0.5) / count)
    spots = np.stack([radius * np.cos(turns), radius * np.sin(turns)], 1)
    for dx, dy in spots + rng.normal(0, 0.08, spots.shape):
        light, size = 0.85 + 0.25 * dy + rng.normal(0, 0.1), rng.uniform(0.2, 0.36)
        leaves = disc(dx * rx, height * 0.68 + dy * ry, (size * rx, size * ry))
        board.fill(leaves, base * light, label)


def facade(canvas: Canvas, rng: Rng, side: int, x: float, z1: float, z2: float) -> None:
    """A house whose front lies on the plane ``X = side * x`` from ``z1`` to ``z2``."""
    storeys, storey, half, depth = rng.integers(2, 7), rng.uniform(2.9, 3.6), (z2 - z1) / 2, 10.0
    height, pitch, tall = storeys * storey, rng.uniform(2.0, 3.4), storey * rng.uniform(0.4, 0.58)
    colours = (
        (176, 160, 136), (150, 88, 70), (188, 184, 176), (128, 124, 120), (196, 176, 120),
        (160, 140, 150), (120, 140, 150), (96, 92, 92),
    )  # fmt: skip
    colour = vary(rng, pick(rng, *colours))
    decals = []
    if rng.random() < 0.6:  # a shop on the ground floor
        decals.append((rect(-half, half, 0, storey * 0.95), np.multiply(colour, 0.65)))
        sign = rect(-half * 0.9, half * 0.9, storey * 0.75, storey * 0.95)
        decals.append((sign, paint_colour(rng)))
    pane = vary(rng, pick(rng, (58, 66, 78), (96, 112, 128), (40, 42, 48)))
    frame = np.clip(np.multiply(colour, pick(rng, 0.7, 1.25)), 0, 250)
    columns, wide = max(int(2 * half / pitch), 1), pitch * rng.uniform(0.2, 0.34)
    for low in (np.arange(storeys) + 0.28) * storey:
        for a in ((np.arange(columns) + 0.5) / columns * 2 - 1) * half:
            if z1 < 45:
                edge = rect(a - wide - 0.12, a + wide + 0.12, low - 0.12, low + tall + 0.12)
                decals.append((edge, frame))
            decals.append((rect(a - wide, a + wide, low, low + tall), pane))
    house = Solid(side * (x + depth / 2), (z1 + z2) / 2, 0.0, depth)
    house.paint(canvas, rect(-half, half, 0, height), colour, ID["building"], side=decals)
    if rng.random() < 0.5:  # a tiled roof leaning back
        eaves, ridge, top = side * (x - 0.3), side * (x + depth / 2), height + 3
        roof = [(eaves, height, z1), (eaves, height, z2), (ridge, top, z2), (ridge, top, z1)]
        canvas.polygon(roof, vary(rng, pick(rng, (120, 66, 52), (80, 80, 86))), ID["building"])


def far_house(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A flat one at the end of the street."""
    colour, half, height = vary(rng, (150, 142, 136), 22), rng.uniform(5, 9), rng.uniform(6, 22)
    Billboard(canvas, x, z).fill(rect(-half, half, 0, height), colour, ID["building"])


def wall(canvas: Canvas, rng: Rng, side: int, x: float, z1: float, z2: float) -> None:
    height, x = rng.uniform(1.8, 3.2), side * x
    colour = vary(rng, pick(rng, (150, 148, 142), (168, 152, 128), (128, 100, 86)))
    canvas.upright(x, z1, z2, 0, height, np.multiply(colour, 0.85), ID["wall"])
    joint = np.multiply(colour, 0.62)
    for up in np.arange(0.4, height, 0.4):
        canvas.upright(x, z1, z2, up, up + 0.04, joint)
    for along in np.arange(z1, min(z2, 40), 1.2):
        canvas.upright(x, along, along + 0.05, 0, height, joint)
    if rng.random() < 0.35:  # graffiti
        start = rng.uniform(z1, (z1 + z2) / 2)
        canvas.upright(x, start, start + rng.uniform(1, 3), 0.6, 1.5, paint_colour(rng))
    canvas.upright(x, z1, z2, height - 0.15, height, np.clip(np.multiply(colour, 1.15), 0, 250))


def fence(canvas: Canvas, rng: Rng, side: int, x: float, z1: float, z2: float) -> None:
    """Bars or planks with gaps; the label covers the gaps, as in Cityscapes."""
    height, x = rng.uniform(1.1, 2.2), side * x
    colour = vary(rng, pick(rng, (60, 64, 62), (132, 98, 66), (206, 206, 200), (58, 92, 72)))
    pitch, share = pick(rng, (0.3, 0.35), (0.22, 0.8), (0.5, 0.3))
    behind = canvas.image.copy()
    canvas.upright(x, z1, z2, 0, height, colour, ID["fence"])
    if canvas.camera.scale((z1 + z2) / 2) * pitch < 2.5:  # bars too fine to draw: a veil
        canvas.image = cv2.addWeighted(canvas.image, 0.6, behind, 0.4, 0)
        return
    ground = pick(rng, (96, 110, 70), (140, 136, 128), (70, 84, 56))
    gaps = np.multiply(vary(rng, ground), 0.9)
    for z in np.arange(z1, z2, pitch):
        canvas.upright(x, z, min(z + pitch * (1 - share), z2), 0.1, height - 0.1, gaps)
    for up in (0.25, height - 0.3):
        canvas.upright(x, z1, z2, up, up + 0.09, colour)


def hedge(canvas: Canvas, rng: Rng, side: int, x: float, z1: float, z2: float) -> None:
    height, x, green = rng.uniform(1.2, 2.6), side * (x + 0.4), np.array(vary(rng, (70, 96, 50)))
    canvas.upright(x, z1, z2, 0, height * 0.85, green * 0.7, ID["vegetation"])
    for z in np.arange(z2, z1, -0.7 if z1 < 25 else -2.0):
        board = Billboard(canvas, x, z)
        for up in (0.3, 0.6, 0.9):
            light, size = 0.6 + 0.5 * up + rng.normal(0, 0.1), rng.uniform(0.35, 0.6)
            leaves = disc(rng.normal(0, 0.15), up * height, size)
            board.fill(leaves, green * light, ID["vegetation"])
