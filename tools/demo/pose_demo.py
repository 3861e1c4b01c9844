"""The demo of human pose: render figures, train without merging, test with it.

    python tools/demo/pose_demo.py --out demo_output

One checkpoint is trained by `tools/train.py` and tested, as it is, by `tools/test.py` under every
preset. The folder gets `results_pose.json` and `demo_pose.png`; a table is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from pathlib import Path

import numpy as np
import pose_report as report
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
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from pose_scenes import HEIGHT, WIDTH, write_dataset
from torch import nn

from mmseg_tome import compat
from mmseg_tome.registry import DATASETS

NUM_TRAIN, NUM_VAL = 600, 120
NUM_SHOWN = 2  # persons
# Crops that are timed, rows and columns: the test's own, that of Jump-Broadcast, and a larger one.
SIZES = {"small": (256, 192), "medium": (640, 480), "large": (1024, 768)}
ROUNDS = {"small": 40, "medium": 20, "large": 10}
# The table's name of each metric: the name that `tools/test.py` gives it.
METRICS = {"PCK@0.1": "PCK@0.1/PCK", "PCK@0.05": "PCK@0.05/PCK", "AP": "coco/AP"}


def main() -> None:
    args = parse_args()
    if not compat.has("mmpose"):
        sys.exit(f"error: mmpose cannot be imported: tools/install_mmpose.sh {sys.executable}")
    run_demo(args, demonstrate, report.draw, report.table, suffix="_pose")


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__, "demo_pose.png", 400, "eight 256x192 crops")
    args = parser.parse_args()
    check_arguments(parser, args)
    return args


def demonstrate(work: Path, args: argparse.Namespace) -> tuple[dict, list[report.Person]]:
    """All steps, their files in ``work``; returns the numbers and whom the picture shows."""
    step(1, f"rendering {NUM_TRAIN} + {NUM_VAL} pictures of {HEIGHT}x{WIDTH} pixels")
    scenes = write_dataset(work / "scenes", NUM_TRAIN, NUM_VAL, args.seed)

    step(2, f"training without merging, {args.iters} iterations")
    checkpoint = train(config("none"), scenes, work, args)

    step(3, "testing that checkpoint under every preset")
    metrics = {}
    for variant in VARIANTS:
        found = test(config(variant), scenes, work / variant, checkpoint)
        metrics[variant] = {ours: round(100 * found[name], 2) for ours, name in METRICS.items()}

    step(4, "timing at " + ", ".join(f"{rows}x{cols}" for rows, cols in SIZES.values()))
    models = {variant: build(config(variant), checkpoint) for variant in VARIANTS}
    data = persons(scenes)
    shown = clearest(data, NUM_SHOWN)
    times = {}
    for name, size in SIZES.items():
        x = preprocess(models[VARIANTS[0]], persons(scenes, size)[shown[0]])
        times[name] = time_forward(models, x, ROUNDS[name])

    step(5, "drawing")
    results = {"persons": len(data), **common_results(args, models, metrics, SIZES, times)}
    return results, [show(models, data[number]) for number in shown]


def config(variant: str) -> Path:
    return REPO / "configs" / "demo" / f"segformerpp_{variant}_demo_pose.py"


# ---- the data ------------------------------------------------------------------------------------


def persons(scenes: Path, size: tuple[int, int] = SIZES["small"]) -> BaseDataset:
    """The validation persons, in crops of ``size`` (rows, columns)."""
    data = Config.fromfile(str(config("none"))).test_dataloader.dataset
    data.data_root = str(scenes)
    affine = next(part for part in data.pipeline if part.type == "TopdownAffine")
    affine.input_size = size[::-1]
    # Its reader of annotations prints, and it warns that it finds COCO's keypoints where they are.
    with contextlib.redirect_stdout(None), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The metainfo config file")
        return DATASETS.build({**data, "_scope_": "mmpose"})


def clearest(data: BaseDataset, count: int) -> list[int]:
    """Numbers of the persons to show, each of another picture.

    Those that are wholly inside come first, then those with most keypoints to see, then those that
    stretch out most.
    """

    def clearness(number: int) -> tuple:
        raw = data.get_data_info(number)["raw_ann_info"]
        x, y, width, height = raw["bbox"]
        inside = x > 0 and y > 0 and x + width < WIDTH and y + height < HEIGHT
        return inside, raw["keypoints"][2::3].count(2), width * height

    of_picture = {}
    for number in sorted(range(len(data)), key=clearness):
        of_picture[data.get_data_info(number)["img_id"]] = number
    return sorted(of_picture.values(), key=clearness, reverse=True)[:count]


def preprocess(model: nn.Module, sample: dict) -> torch.Tensor:
    """A person of the data set to the normalised input [1, 3, H, W]."""
    return model.data_preprocessor(pseudo_collate([sample]), False)["inputs"]


# ---- the persons that are shown ------------------------------------------------------------------


@torch.inference_mode()
def show(models: dict[str, nn.Module], sample: dict) -> report.Person:
    """Predict one person with every model, as in the test."""
    info = sample["data_samples"].metainfo
    truth = sample["data_samples"].gt_instances
    size = np.array(info["input_size"])  # width, height
    scale = size / info["input_scale"]

    def in_crop(xy: np.ndarray) -> np.ndarray:
        return (xy - info["input_center"]) * scale + size / 2

    predictions, slots = {}, {}
    for variant, model in models.items():
        (found,) = model.test_step(pseudo_collate([sample]))
        predictions[variant] = in_crop(found.pred_instances.keypoints[0])
        slots[variant] = slot_maps(model, preprocess(model, sample))
    (box,) = truth.bboxes
    return report.Person(
        image=sample["inputs"].numpy()[::-1].transpose(1, 2, 0),
        truth=in_crop(truth.keypoints[0]),
        labelled=truth.keypoints_visible[0] > 0,
        box=float(max(box[2:] - box[:2]) * scale[0]),
        predictions=predictions,
        slots=slots,
    )


if __name__ == "__main__":
    main()
