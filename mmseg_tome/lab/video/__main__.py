"""Agreement, flicker and time of a model against K, as `infer --reuse-frames K` runs it.

python -m mmseg_tome.lab.video CONFIG CHECKPOINT FOLDER [--preset NAME] [--every 1 2 4 8] ...
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from mmseg_tome.config_datasets import with_one_test_dataset
from mmseg_tome.predict.inputs import Item, Source, find_sources
from mmseg_tome.predict.segmentation import SegmentationPredictor
from mmseg_tome.runtime.frame_reuse import FrameReuse

View = tuple[float, float, float]
"""What a frame shows of an image: pixels of the image a pixel of the frame, and its corner x, y."""


def views(motion: str, width: int, height: int, frames: int) -> list[View]:
    """A camera's way over an image of this size.

    Args:
        motion: "pan N", by N pixels of the frame between frames; or "zoom N", to N percent.
        width: Of image and frames.
        height: Of image and frames.
        frames: How many.
    """
    kind, amount = motion.split()
    if kind == "zoom":
        scales = np.geomspace(1, int(amount) / 100, frames)
        return [(s, width * (1 - s) / 2, height * (1 - s) / 2) for s in scales]
    scale, step = 0.7, int(amount) * 0.7
    start = max(0.0, (width * 0.3 - step * (frames - 1)) / 2)
    return [(scale, start + step * i, height * 0.15) for i in range(frames)]


def shown(image: np.ndarray, view: View) -> np.ndarray:
    """A frame, of the image's size."""
    scale, x, y = view
    return cv2.warpAffine(
        image,
        np.array([[scale, 0, x], [0, scale, y]]),
        image.shape[1::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def flicker(before: np.ndarray, now: np.ndarray, first: View, second: View) -> float:
    """Share of the pixels of the second frame, of those the first shows, that change their class.

    Args:
        before: Classes of the first frame, `[H, W]` uint8.
        now: Classes of the second.
        first: View of the first.
        second: View of the second.
    """
    scale = second[0] / first[0]
    dx, dy = ((b - a) / first[0] for a, b in zip(first[1:], second[1:], strict=True))
    moved = cv2.warpAffine(
        before,
        np.array([[scale, 0, dx], [0, scale, dy]]),
        before.shape[::-1],
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderValue=255,
    )
    seen = moved != 255
    return float((moved != now)[seen].mean())


def videos(args: argparse.Namespace) -> Iterator[tuple[str, list[np.ndarray], list[View] | None]]:
    """Motion, frames, and views where these are known."""
    paths = [source.path for source in find_sources([str(args.images)])]
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, args.scenes).round().astype(int)]
    for motion in args.motions:
        for path in chosen:
            image = cv2.imread(str(path))
            way = views(motion, image.shape[1], image.shape[0], args.frames)
            yield motion, [shown(image, view) for view in way], way
    for first in np.linspace(0, len(paths) - args.frames, args.scenes).round().astype(int):
        run = paths[first : first + args.frames]
        yield "as filmed", [cv2.imread(str(path)) for path in run], None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("images", type=Path, help="folder; in order, consecutive frames as filmed")
    parser.add_argument("--preset")
    parser.add_argument("--every", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--motions", nargs="+", default=["pan 2", "pan 8", "zoom 70"])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    from mmengine.config import Config

    cfg = Config.fromfile(args.config)
    if args.preset:
        cfg.model.backbone.tome_cfg = args.preset
    cfg = with_one_test_dataset(cfg)
    predictor = SegmentationPredictor(cfg, args.checkpoint, args.device, batch_size=1)
    reuse = FrameReuse(predictor.model, 1)
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    ms: dict[int, dict[bool, list[float]]] = {}  # by K and whether a frame matched
    for number, (motion, frames, way) in enumerate(videos(args)):
        plain = None
        for every in [1, *(k for k in args.every if k > 1)]:
            source = Source(Path(str(number)), str(number), True)  # a video of its own
            reuse.every = every
            maps = []
            for i, frame in enumerate(frames):
                reuse.before_frame(source)
                (prediction,) = predictor.predict([Item(source, frame, i)])
                maps.append(prediction.labels)
                times = ms.setdefault(every, {}).setdefault(reuse.memory.matching, [])
                times.append(prediction.result["ms"])
            plain = maps if plain is None else plain
            same = float(np.mean([(a == b).mean() for a, b in zip(maps, plain, strict=True)]))
            still = [(1.0, 0.0, 0.0)] * len(frames)
            pairs = zip(maps, maps[1:], way or still, (way or still)[1:], strict=False)
            changed = float(np.mean([flicker(*pair) for pair in pairs]))
            found.setdefault(motion, {}).setdefault(every, []).append((same, changed))
    print("| motion | K | agreement with K=1, % | flicker, % |\n|---|---|---|---|")
    for motion, rows in found.items():
        for every, values in rows.items():
            same, changed = (100 * np.mean(column) for column in zip(*values, strict=True))
            print(f"| {motion} | {every} | {same:.2f} | {changed:.2f} |")
    print("\n| K | ms, frames that match | others | mean |\n|---|---|---|---|")
    for every, by_kind in ms.items():
        matching = float(np.median(by_kind[True]))
        other = float(np.median(by_kind.get(False, by_kind[True])))
        mean = (matching + (every - 1) * other) / every
        print(f"| {every} | {matching:.2f} | {other:.2f} | {mean:.2f} |")


if __name__ == "__main__":
    main()
