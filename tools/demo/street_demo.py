"""All in a few minutes on a CPU: render street scenes, train without merging, test with it.

    python tools/demo/street_demo.py --out demo_output

One checkpoint is trained by `tools/train.py` and tested, as it is, by `tools/test.py` under every
preset. The folder gets `results.json` and `demo.png`; a table is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import street_report as report
import torch
from common import (
    REPO,
    VARIANTS,
    argument_parser,
    build,
    check_arguments,
    common_results,
    run_demo,
    slot_maps,
    step,
    test,
    time_forward,
    train,
)
from street_scenes import render_scene, scene_rng, write_dataset
from torch import nn

NUM_TRAIN, NUM_VAL = 120, 20
LARGE = 1024  # rows of the second image that is timed: the size of a Cityscapes image
ROUNDS = {"small": 30, "large": 7}


def main() -> None:
    run_demo(parse_args(), demonstrate, report.draw, report.table)


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__, "demo.png", 400, "four 256x512 crops")
    parser.add_argument(
        "--height", type=int, default=256, help="rows of a scene (1024 is the size of Cityscapes)"
    )
    args = parser.parse_args()
    if args.height < 256 or args.height % 32:
        parser.error(f"--height must be a multiple of 32 from 256 on, not {args.height}")
    check_arguments(parser, args)
    return args


def demonstrate(work: Path, args: argparse.Namespace) -> tuple[dict, report.Pictures]:
    """All steps, their files in ``work``; returns the numbers and what the picture shows."""
    sizes = {size: (rows, 2 * rows) for size, rows in (("small", args.height), ("large", LARGE))}
    step(1, f"rendering {NUM_TRAIN} + {NUM_VAL} scenes of {args.height}x{2 * args.height} pixels")
    scenes = write_dataset(work / "scenes", NUM_TRAIN, NUM_VAL, args.height, args.seed)

    step(2, f"training without merging, {args.iters} iterations")
    checkpoint = train(config("none"), scenes, work, args)

    step(3, "testing that checkpoint under every preset")
    metrics = {}
    for variant in VARIANTS:
        out = ("--out", work / variant / "pred")
        found = test(config(variant), scenes, work / variant, checkpoint, *out)
        metrics[variant] = {k: round(v, 2) for k, v in found.items() if "IoU" in k or k == "aAcc"}

    step(4, "timing at " + " and ".join(f"{rows}x{cols}" for rows, cols in sizes.values()))
    models = {variant: build(config(variant), checkpoint) for variant in VARIANTS}
    number = richest_scene(scenes)
    path = scene_file(scenes, number)
    big = render_scene(scene_rng(args.seed, "val", number), LARGE)[0][..., ::-1]
    images = {"small": cv2.imread(str(path)), "large": big}
    inputs = {size: preprocess(models["none"], image) for size, image in images.items()}
    times = {size: time_forward(models, x, ROUNDS[size]) for size, x in inputs.items()}

    step(5, "drawing")
    results = {"height": args.height, **common_results(args, models, metrics, sizes, times)}
    pictures = report.Pictures(
        image=images["small"][..., ::-1],
        labels=cv2.imread(str(label_file(path)), cv2.IMREAD_GRAYSCALE),
        predictions={
            variant: cv2.imread(str(work / variant / "pred" / path.name), cv2.IMREAD_GRAYSCALE)
            for variant in VARIANTS
        },
        slots={variant: slot_maps(model, inputs["small"]) for variant, model in models.items()},
    )
    return results, pictures


def config(variant: str) -> Path:
    return REPO / "configs" / "demo" / f"segformerpp_{variant}_demo.py"


def preprocess(model: nn.Module, image: np.ndarray) -> torch.Tensor:
    """BGR image [H, W, 3] to the normalised input [1, 3, H, W]."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return model.data_preprocessor({"inputs": [pixels]}, False)["inputs"]


# ---- the scene that is shown ---------------------------------------------------------------------


def scene_file(scenes: Path, number: int) -> Path:
    return next((scenes / "leftImg8bit" / "val").glob(f"*/*_{number:06d}_*.png"))


def label_file(image: Path) -> Path:
    city, split, scenes = image.parent.name, image.parents[1].name, image.parents[3]
    name = image.name.replace("leftImg8bit", "gtFine_labelTrainIds")
    return scenes / "gtFine" / split / city / name


def richest_scene(scenes: Path, count: int = NUM_VAL) -> int:
    """Number of the validation scene with the most classes that one can see."""

    def classes(number: int) -> int:
        path = label_file(scene_file(scenes, number))
        labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        return (np.bincount(labels.ravel(), minlength=256)[:19] > labels.size // 400).sum()

    return max(range(count), key=classes)


if __name__ == "__main__":
    main()
