"""What stands in a street: each function paints one object, all sizes in metres."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from rendering import Colour, Rng, pick, vary
from street_canvas import ID, VOID, Billboard, Canvas, Solid, disc, rect

GLASS, TYRE, METAL = (52, 62, 72), (24, 24, 26), (120, 122, 124)
RED_LIGHT, HEADLIGHT = (205, 30, 32), (240, 238, 215)


def paint_colour(rng: Rng) -> Colour:
    """Car paint and clothes: no colour tells the class."""
    return vary(
        rng,
        pick(
            rng, (30, 30, 34), (225, 225, 222), (150, 152, 156), (90, 92, 98), (150, 28, 30),
            (35, 60, 130), (50, 85, 60), (190, 160, 90), (110, 60, 40), (70, 130, 170),
        ),
    )  # fmt: skip


# ---- vehicles ------------------------------------------------------------------------------------


def _wheels(positions, radius: float) -> list:
    tyres = [(disc(a, radius, radius), TYRE) for a in positions]
    return tyres + [(disc(a, radius, radius * 0.55), METAL) for a in positions]


def _lights(width: float, up: float, size: float, colour: Colour) -> list:
    half = width / 2
    return [
        (rect(s * half * 0.92, s * half * 0.92 - s * size * 1.5, up, up + size), colour)
        for s in (-1, 1)
    ]


def _plate(up: float) -> tuple:
    return rect(-0.26, 0.26, up, up + 0.12), (225, 225, 215)


def car(canvas: Canvas, rng: Rng, x: float, z: float, yaw: float) -> None:
    length, width, height = rng.uniform(3.7, 4.8), rng.uniform(1.7, 1.9), rng.uniform(1.4, 1.75)
    half, belt, estate = length / 2, height * 0.58, rng.random() < 0.5
    tail = -half * (0.97 if estate else 0.78)
    roof = (-half * (0.85 if estate else 0.5), half * 0.2)
    profile = [
        (-half, 0.28), (half, 0.28), (half, belt * 0.85), (half * 0.5, belt), (roof[1], height),
        (roof[0], height), (tail, belt), (-half, belt * 0.95),
    ]  # fmt: skip
    top = height - 0.1
    windows = [
        ([(tail + 0.3, belt), (0, belt), (0, top), (roof[0] + 0.1, top)], GLASS),
        ([(0.08, belt), (half * 0.43, belt), (roof[1] - 0.02, top), (0.08, top)], GLASS),
    ]
    w = width / 2
    rear_window = [(-w * 0.85, belt), (w * 0.85, belt), (w * 0.7, top), (-w * 0.7, top)]
    shared = [(rect(-w, w, 0.28, 0.45), (45, 45, 48)), (rear_window, GLASS)]
    body = Solid(x, z, yaw, width)
    body.paint(
        canvas, profile, paint_colour(rng), ID["car"],
        side=windows + _wheels((-half * 0.62, half * 0.62), 0.33),
        front=[
            *shared, (rect(-w * 0.6, w * 0.6, 0.5, 0.66), (30, 30, 32)),
            *_lights(width, 0.64, 0.17, HEADLIGHT),
        ],
        rear=[*shared, *_lights(width, 0.7, 0.19, RED_LIGHT), _plate(0.52)],
    )  # fmt: skip


def truck(canvas: Canvas, rng: Rng, x: float, z: float, yaw: float) -> None:
    length, width, height = rng.uniform(6.5, 9.5), 2.4, rng.uniform(2.9, 3.6)
    half, w, cab = length / 2, 1.2, 2.0
    cabin = Solid(
        x + (half - cab / 2) * np.sin(yaw), z + (half - cab / 2) * np.cos(yaw), yaw, width
    )
    cargo = Solid(x - cab / 2 * np.sin(yaw), z - cab / 2 * np.cos(yaw), yaw, width)
    h = height * 0.82
    box = (length - cab) / 2 - 0.15
    parts = [
        (
            cabin,
            [
                (-cab / 2, 0.45),
                (cab / 2, 0.45),
                (cab / 2, h * 0.55),
                (cab * 0.38, h),
                (-cab / 2, h),
            ],
            paint_colour(rng),
            dict(
                side=[(rect(-0.4, cab * 0.36, h * 0.55, h * 0.85), GLASS), *_wheels((0.2,), 0.48)],
                front=[
                    (rect(-w * 0.9, w * 0.9, h * 0.54, h * 0.88), GLASS),
                    (rect(-w, w, 0.45, 0.75), (40, 40, 42)),
                    *_lights(width, 0.8, 0.2, HEADLIGHT),
                ],
            ),
        ),
        (
            cargo,
            [(-box, 0.8), (box, 0.8), (box, height), (-box, height)],
            pick(rng, (228, 228, 224), paint_colour(rng), (200, 180, 120), (96, 104, 84)),
            dict(
                side=[
                    (rect(-box, box, 0.8, 1.0), (60, 60, 62)),
                    (
                        rect(-box * 0.7, box * 0.7, 1.6, height - 0.5),
                        vary(rng, (150, 150, 150), 50),
                    ),
                    *_wheels((-box * 0.8, -box * 0.45), 0.48),
                ],
                rear=[
                    (rect(-0.03, 0.03, 1.0, height - 0.1), (70, 70, 70)),
                    (rect(-w * 0.9, w * 0.9, 0.8, 0.95), (50, 50, 52)),
                    (rect(-w, -w * 0.7, 0.3, 0.8), TYRE),
                    (rect(w * 0.7, w, 0.3, 0.8), TYRE),
                    *_lights(width, 0.8, 0.16, RED_LIGHT),
                ],
            ),
        ),
    ]
    for solid, profile, colour, decals in sorted(parts, key=lambda part: -part[0].z):
        solid.paint(canvas, profile, colour, ID["truck"], **decals)


def _window_band(half: float, up: tuple[float, float], pitch: float) -> list:
    count = max(int(2 * half / pitch), 1)
    edges = np.linspace(-half, half, count + 1)
    return [(rect(a + 0.06, b - 0.06, *up), GLASS) for a, b in pairwise(edges)]


def bus(canvas: Canvas, rng: Rng, x: float, z: float, yaw: float) -> None:
    half, width, height = rng.uniform(5.0, 6.2), 2.5, rng.uniform(3.0, 3.3)
    w = width / 2
    colour = pick(rng, (198, 40, 36), (222, 182, 40), (232, 232, 228), (40, 96, 160), (70, 140, 80))
    profile = [
        (-half, 0.3),
        (half, 0.3),
        (half, height - 0.2),
        (half - 0.3, height),
        (-half, height),
    ]
    sign = rect(-w * 0.7, w * 0.7, height - 0.5, height - 0.2)
    Solid(x, z, yaw, width).paint(
        canvas, profile, vary(rng, colour), ID["bus"],
        side=[
            *_window_band(half - 0.4, (1.35, height - 0.55), 1.5),
            (rect(-half, half, 0.3, 0.55), (50, 50, 54)),
            *_wheels((-half * 0.55, half * 0.6), 0.5),
        ],
        front=[
            (rect(-w * 0.92, w * 0.92, 1.0, height - 0.6), GLASS), (sign, (20, 20, 20)),
            (rect(-w * 0.5, w * 0.4, height - 0.42, height - 0.27), (250, 170, 30)),
            *_lights(width, 0.6, 0.22, HEADLIGHT),
        ],
        rear=[
            (rect(-w * 0.85, w * 0.85, 1.7, height - 0.5), GLASS),
            (rect(-w * 0.8, w * 0.8, 0.6, 1.2), (60, 60, 62)),
            *_lights(width, 1.25, 0.3, RED_LIGHT), _plate(0.42),
        ],
    )  # fmt: skip


def train(canvas: Canvas, rng: Rng, x: float, z: float, yaw: float) -> None:
    """A tram: two cars, higher than a bus, two colours, a pantograph."""
    half, width, height = rng.uniform(6.5, 8), 2.4, rng.uniform(3.5, 3.8)
    w = width / 2
    colour = pick(rng, (216, 200, 60), (226, 226, 220), (170, 30, 40), (60, 130, 120))
    skirt = pick(rng, (60, 64, 70), (160, 28, 34), (36, 70, 120))
    step = np.array([np.sin(yaw), np.cos(yaw)]) * (half + 0.3)
    for sign in sorted((-1, 1), key=lambda s: -s * step[1]):
        body = Solid(x + sign * step[0], z + sign * step[1], yaw, width)
        slant = 0.7
        profile = [
            (-half, 0.25), (half, 0.25), (half, 1.4), (half - slant * (sign > 0), height),
            (-half + slant * (sign < 0), height), (-half, 1.4),
        ]  # fmt: skip
        end = [
            (rect(-w, w, 0.25, 1.1), skirt), (rect(-w * 0.85, w * 0.85, 1.4, height - 0.7), GLASS),
            (rect(-w * 0.5, w * 0.5, height - 0.5, height - 0.2), (250, 180, 60)),
            *_lights(width, 0.8, 0.2, HEADLIGHT),
        ]  # fmt: skip
        body.paint(
            canvas, profile, colour, ID["train"], front=end, rear=end,
            side=[
                (rect(-half, half, 0.25, 1.15), skirt),
                *_window_band(half - 0.8, (1.5, height - 0.9), 1.1),
                (rect(-0.65, 0.65, 0.5, height - 0.8), vary(rng, (90, 96, 104))),
            ],
        )  # fmt: skip
    mast = Billboard(canvas, x, z)
    for side in (-1, 1):
        mast.line(0, height, side * 0.7, height + 0.6, 0.06, METAL, ID["train"])
        mast.line(side * 0.7, height + 0.6, 0, height + 1.2, 0.06, METAL, ID["train"])


# ---- people and bikes ----------------------------------------------------------------------------


def _figure(
    board: Billboard, rng: Rng, label: int, *, seat: float | None, helmet: bool = False
) -> None:
    """A person of 1.75 m, walking, or sitting with the hips ``seat`` metres above the ground."""
    coat, trousers = (
        paint_colour(rng),
        vary(rng, pick(rng, (40, 44, 60), (60, 60, 64), (120, 110, 96))),
    )
    skin = vary(rng, pick(rng, (214, 170, 140), (170, 120, 90), (105, 72, 54)))
    lean, hips = (0.28, seat) if seat else (0.0, 0.86)
    stride = rng.uniform(0.05, 0.28)
    if seat:
        board.line(0, hips, 0.34, hips - 0.28, 0.17, trousers, label)
        board.line(0.34, hips - 0.28, 0.18, 0.24, 0.13, trousers, label)
    else:
        board.line(-0.05, hips, -stride, 0, 0.16, np.multiply(trousers, 0.8), label)
        board.line(0.05, hips, stride, 0, 0.16, trousers, label)
    shoulder = (lean, hips + 0.58)
    board.fill(
        [(-0.17, hips - 0.06), (0.17, hips - 0.06), (shoulder[0] + 0.23, shoulder[1]),
         (shoulder[0] - 0.23, shoulder[1])], coat, label,
    )  # fmt: skip
    hand = (0.62, hips + 0.22) if seat else (shoulder[0] + rng.uniform(0.1, 0.35), hips)
    board.line(shoulder[0] + 0.14, shoulder[1] - 0.06, *hand, 0.11, np.multiply(coat, 0.85), label)
    if not seat:
        board.line(-0.17, shoulder[1] - 0.06, -rng.uniform(0.2, 0.35), hips, 0.11, coat, label)
    head = (lean * 1.15, hips + 0.76)
    board.disc(*head, (0.12, 0.15), skin, label)
    hair = (
        paint_colour(rng)
        if helmet
        else vary(rng, pick(rng, (40, 30, 24), (90, 66, 40), (150, 140, 130)))
    )
    board.disc(head[0], head[1] + 0.06, (0.14, 0.12) if helmet else (0.12, 0.1), hair, label)


def person(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    _figure(Billboard(canvas, x, z, rng.uniform(0.75, 1.05)), rng, ID["person"], seat=None)


def bicycle(canvas: Canvas, rng: Rng, x: float, z: float, ridden: bool) -> None:
    board = Billboard(canvas, x, z, pick(rng, -1, 1) * rng.uniform(0.3, 1))
    frame, label = paint_colour(rng), ID["bicycle"]
    for hub in (-0.53, 0.53):
        board.disc(hub, 0.34, 0.35, TYRE, label)
        # The road shows between the spokes; the label covers the wheel, as in Cityscapes.
        board.disc(hub, 0.34, 0.28, (118, 116, 114))
        board.line(hub, 0.06, hub, 0.62, 0.03, METAL)
    joints = ((-0.53, 0.34), (-0.02, 0.3), (0.42, 0.8), (-0.18, 0.78), (-0.02, 0.3))
    for (x1, y1), (x2, y2) in pairwise(joints):
        board.line(x1, y1, x2, y2, 0.06, frame, label)
    board.line(-0.53, 0.34, -0.18, 0.78, 0.05, frame, label)
    board.line(0.53, 0.34, 0.4, 0.98, 0.06, frame, label)
    board.line(0.36, 1.0, 0.62, 1.02, 0.06, TYRE, label)
    board.line(-0.32, 0.92, -0.06, 0.92, 0.09, TYRE, label)
    if ridden:
        _figure(board, rng, ID["rider"], seat=0.95, helmet=rng.random() < 0.6)


def motorcycle(canvas: Canvas, rng: Rng, x: float, z: float, ridden: bool) -> None:
    board = Billboard(canvas, x, z, pick(rng, -1, 1) * rng.uniform(0.4, 1))
    label, paint = ID["motorcycle"], paint_colour(rng)
    for hub in (-0.68, 0.68):
        board.disc(hub, 0.31, 0.33, TYRE, label)
        board.disc(hub, 0.31, 0.15, METAL, label)
    board.fill([(-0.55, 0.3), (0.45, 0.25), (0.55, 0.75), (-0.6, 0.72)], (58, 58, 62), label)
    board.fill([(-0.95, 0.62), (0.1, 0.7), (0.05, 0.86), (-0.9, 0.86)], TYRE, label)
    board.fill([(-0.1, 0.6), (0.6, 0.5), (0.62, 0.95), (0.35, 1.0), (0.0, 0.88)], paint, label)
    board.line(0.68, 0.31, 0.42, 1.05, 0.1, METAL, label)
    board.line(0.3, 1.1, 0.56, 1.02, 0.07, TYRE, label)
    board.disc(0.62, 0.88, 0.11, HEADLIGHT, label)
    if ridden:
        _figure(board, rng, ID["rider"], seat=0.88, helmet=True)


# ---- street furniture ----------------------------------------------------------------------------


def lamp_post(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board, height = Billboard(canvas, x, z), rng.uniform(5.5, 8.5)
    colour = vary(rng, pick(rng, (92, 96, 98), (150, 152, 150), (60, 66, 62)), 10)
    reach = -np.sign(x) * rng.uniform(0.8, 2.2)
    board.line(0, 0, 0, height, rng.uniform(0.13, 0.2), colour, ID["pole"])
    board.line(0, height, reach, height + 0.35, 0.1, colour, ID["pole"])
    board.fill(
        np.add((reach, height + 0.3), rect(-0.35, 0.35, -0.1, 0.1)), (196, 196, 186), ID["pole"]
    )


def bollard(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board = Billboard(canvas, x, z)
    board.line(0, 0, 0, 1.0, 0.14, vary(rng, pick(rng, (70, 70, 72), (150, 60, 50))), ID["pole"])
    board.line(0, 0.75, 0, 0.9, 0.14, (230, 230, 230), ID["pole"])


def traffic_light(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board = Billboard(canvas, x, z)
    steel, label = vary(rng, (110, 114, 116), 10), ID["traffic light"]
    heads = [(0.0, 3.2)]
    board.line(0, 0, 0, 3.2, 0.14, steel, ID["pole"])
    if rng.random() < 0.5:  # a gantry over the lane
        reach = -np.sign(x) * rng.uniform(2.0, 3.2)
        board.line(0, 3.0, 0, 5.8, 0.14, steel, ID["pole"])
        board.line(0, 5.8, reach, 5.8, 0.11, steel, ID["pole"])
        heads.append((reach, 5.4))
    lit = rng.integers(3)
    colours = ((230, 40, 30), (240, 170, 30), (50, 210, 110))
    for hx, hy in heads:
        board.fill(np.add((hx, hy), rect(-0.22, 0.22, -0.55, 0.55)), (34, 36, 38), label)
        for i, colour in enumerate(colours):
            paint = colour if i == lit else np.multiply(colour, 0.3)
            board.disc(hx, hy + 0.34 * (1 - i), 0.14, paint, label)


def traffic_sign(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board, y, r = (
        Billboard(canvas, x, z, rng.uniform(0.8, 1)),
        rng.uniform(2.1, 2.7),
        rng.uniform(0.33, 0.45),
    )
    label = ID["traffic sign"]
    board.line(0, 0, 0, y, 0.09, vary(rng, (140, 142, 142), 10), ID["pole"])
    red, blue, white, yellow = (190, 30, 36), (36, 84, 170), (232, 232, 230), (236, 196, 50)
    kind = rng.integers(5)
    if kind == 0:  # limit
        board.disc(0, y, r, red, label)
        board.disc(0, y, r * 0.74, white, label)
        board.fill(
            np.add((0, y), rect(-r * 0.35, r * 0.35, -r * 0.3, r * 0.3)), (40, 40, 40), label
        )
    elif kind == 1:  # warning
        triangle = np.array([(-1, -0.7), (1, -0.7), (0, 1)])
        board.fill(np.add((0, y), triangle * r), red, label)
        board.fill(np.add((0, y - 0.02), triangle * r * 0.62), white, label)
    elif kind == 2:  # direction
        board.disc(0, y, r, blue, label)
        board.line(0, y - r * 0.6, 0, y + r * 0.5, r * 0.25, white, label)
    elif kind == 3:  # priority
        diamond = np.array([(-1, 0), (0, -1), (1, 0), (0, 1)])
        board.fill(np.add((0, y), diamond * r), white, label)
        board.fill(np.add((0, y), diamond * r * 0.75), yellow, label)
    else:  # a board
        wide = r * rng.uniform(1.2, 2)
        board.fill(np.add((0, y), rect(-wide, wide, -r, r)), pick(rng, blue, yellow, white), label)
        for row in (-0.4, 0.1, 0.5):
            board.line(
                -wide * 0.8, y + row * r, wide * 0.6, y + row * r, r * 0.2, (60, 60, 66), label
            )


def bin_(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    """A litter bin: 'static' in Cityscapes, so void here."""
    board = Billboard(canvas, x, z)
    board.fill(rect(-0.3, 0.3, 0, 1.0), vary(rng, pick(rng, (70, 74, 70), (190, 110, 40))), VOID)


# ---- the sides of the street ---------------------------------------------------------------------


def tree(canvas: Canvas, rng: Rng, x: float, z: float) -> None:
    board, height, label = Billboard(canvas, x, z), rng.uniform(5, 10), ID["vegetation"]
    board.line(0, 0, rng.normal(0, 0.2), height * 0.6, rng.uniform(0.22, 0.4), (74, 60, 48), label)
    foliage(board, rng, 0, height * 0.68, height * rng.uniform(0.2, 0.32), height * 0.3)


def foliage(board: Billboard, rng: Rng, x: float, y: float, rx: float, ry: float) -> None:
    """A cloud of leaves: dark blobs below and behind, light ones above."""
    base = np.array(
        pick(rng, (66, 96, 44), (84, 112, 50), (52, 82, 52), (128, 118, 48), (98, 106, 70))
    )
    count = 34 if board.z < 30 else 14
    # Fibonacci spacing fills the crown evenly; a random walk would leave holes.
    turns = np.arange(count) * 2.399963
    radius = np.sqrt((np.arange(count) + 0.5) / count)
    for turn, r in zip(turns, radius, strict=True):
        dx, dy = r * np.cos(turn) + rng.normal(0, 0.08), r * np.sin(turn) + rng.normal(0, 0.08)
        light = 0.85 + 0.25 * dy + rng.normal(0, 0.1)
        size = rng.uniform(0.2, 0.36)
        board.disc(x + dx * rx, y + dy * ry, (size * rx, size * ry), base * light, ID["vegetation"])


def facade(canvas: Canvas, rng: Rng, side: int, x: float, z1: float, z2: float) -> None:
    """A house whose front lies on the plane ``X = side * x`` from ``z1`` to ``z2``."""
    storeys = rng.integers(2, 7)
    storey = rng.uniform(2.9, 3.6)
    height, half, depth = storeys * storey, (z2 - z1) / 2, 10.0
    colour = vary(
        rng,
        pick(rng, (176, 160, 136), (150, 88, 70), (188, 184, 176), (128, 124, 120), (196, 176, 120),
             (160, 140, 150), (120, 140, 150), (96, 92, 92)),
    )  # fmt: skip
    decals = []
    if rng.random() < 0.6:  # a shop on the ground floor
        decals.append((rect(-half, half, 0, storey * 0.95), np.multiply(colour, 0.65)))
        sign = paint_colour(rng)
        decals.append((rect(-half * 0.9, half * 0.9, storey * 0.75, storey * 0.95), sign))
    pane = vary(rng, pick(rng, (58, 66, 78), (96, 112, 128), (40, 42, 48)))
    pitch = rng.uniform(2.0, 3.4)
    frame = np.clip(np.multiply(colour, pick(rng, 0.7, 1.25)), 0, 250)
    columns = max(int(2 * half / pitch), 1)
    wide, tall = pitch * rng.uniform(0.2, 0.34), storey * rng.uniform(0.4, 0.58)
    for floor in range(storeys):
        for a in (np.arange(columns) + 0.5) / columns * 2 * half - half:
            base = floor * storey + 0.28 * storey
            if z1 < 45:
                decals.append(
                    (rect(a - wide - 0.12, a + wide + 0.12, base - 0.12, base + tall + 0.12), frame)
                )
            decals.append((rect(a - wide, a + wide, base, base + tall), pane))
    profile = [(-half, 0), (half, 0), (half, height), (-half, height)]
    house = Solid(side * (x + depth / 2), (z1 + z2) / 2, 0.0, depth)
    house.paint(canvas, profile, colour, ID["building"], side=decals)
    if rng.random() < 0.5:  # a tiled roof leaning back
        eaves, ridge = side * (x - 0.3), side * (x + depth / 2)
        roof = [
            (eaves, height, z1),
            (eaves, height, z2),
            (ridge, height + 3, z2),
            (ridge, height + 3, z1),
        ]
        canvas.polygon(roof, vary(rng, pick(rng, (120, 66, 52), (80, 80, 86))), ID["building"])


def wall(canvas: Canvas, rng: Rng, side: int, x: float, z1: float, z2: float) -> None:
    height, x = rng.uniform(1.8, 3.2), side * x
    colour = vary(rng, pick(rng, (150, 148, 142), (168, 152, 128), (128, 100, 86)))
    plane = lambda a1, a2, b1, b2: [(x, b1, a1), (x, b1, a2), (x, b2, a2), (x, b2, a1)]  # noqa: E731
    canvas.polygon(plane(z1, z2, 0, height), np.multiply(colour, 0.85), ID["wall"])
    joint = np.multiply(colour, 0.62)
    for up in np.arange(0.4, height, 0.4):
        canvas.polygon(plane(z1, z2, up, up + 0.04), joint)
    for along in np.arange(z1, min(z2, 40), 1.2):
        canvas.polygon(plane(along, along + 0.05, 0, height), joint)
    if rng.random() < 0.35:  # graffiti
        start = rng.uniform(z1, (z1 + z2) / 2)
        canvas.polygon(plane(start, start + rng.uniform(1, 3), 0.6, 1.5), paint_colour(rng))
    canvas.polygon(plane(z1, z2, height - 0.15, height), np.clip(np.multiply(colour, 1.15), 0, 250))


def fence(canvas: Canvas, rng: Rng, side: int, x: float, z1: float, z2: float) -> None:
    """Bars or planks with gaps; the label covers the gaps, as in Cityscapes."""
    height, x = rng.uniform(1.1, 2.2), side * x
    colour = vary(rng, pick(rng, (60, 64, 62), (132, 98, 66), (206, 206, 200), (58, 92, 72)))
    pitch, share = pick(rng, (0.3, 0.35), (0.22, 0.8), (0.5, 0.3))
    solid = [(x, 0, z1), (x, 0, z2), (x, height, z2), (x, height, z1)]
    behind = canvas.image.copy()
    canvas.polygon(solid, colour, ID["fence"])
    if canvas.camera.scale((z1 + z2) / 2) * pitch < 2.5:  # bars too fine to draw: a veil
        canvas.image = cv2.addWeighted(canvas.image, 0.6, behind, 0.4, 0)
    else:
        _bars(canvas, rng, x, z1, z2, height, pitch, share, colour)


def _bars(canvas, rng, x, z1, z2, height, pitch, share, colour) -> None:
    behind = np.multiply(vary(rng, pick(rng, (96, 110, 70), (140, 136, 128), (70, 84, 56))), 0.9)
    for z in np.arange(z1, z2, pitch):
        gap = min(z + pitch * (1 - share), z2)
        canvas.polygon(
            [(x, 0.1, z), (x, 0.1, gap), (x, height - 0.1, gap), (x, height - 0.1, z)], behind
        )
    for up in (0.25, height - 0.3):
        canvas.polygon([(x, up, z1), (x, up, z2), (x, up + 0.09, z2), (x, up + 0.09, z1)], colour)


def hedge(canvas: Canvas, rng: Rng, side: int, x: float, z1: float, z2: float) -> None:
    height, x = rng.uniform(1.2, 2.6), side * (x + 0.4)
    green = np.array(vary(rng, (70, 96, 50)))
    front = [(x, 0, z1), (x, 0, z2), (x, height * 0.85, z2), (x, height * 0.85, z1)]
    canvas.polygon(front, green * 0.7, ID["vegetation"])
    for z in np.arange(z2, z1, -0.7 if z1 < 25 else -2.0):
        board = Billboard(canvas, x, z)
        for up in (0.3, 0.6, 0.9):
            light = 0.6 + 0.5 * up + rng.normal(0, 0.1)
            size = rng.uniform(0.35, 0.6)
            board.disc(rng.normal(0, 0.15), up * height, size, green * light, ID["vegetation"])
