"""Find the merging that costs least for a speed-up, or saves most for a loss, on this device.

    python tools/tune.py --config CONFIG --checkpoint MY.pth --images photos/ --target 1.5x
    python tools/tune.py --config CONFIG --checkpoint MY.pth --images photos/ --max-loss 0.2

A few dozen images are enough, and they need no labels: what merging costs is the percentage of
pixels that change their class. With --labels, or with --data train for the config's own data set,
it is mIoU. Each stage is probed first, then whole plans are tried (Optuna), and the best are timed
for real. --out gets

    tuned.py     a config that inherits CONFIG and merges as was chosen
    pareto.png   loss against speed-up: all trials, their front, the presets, the choice
    pareto.json  the same in numbers, with what each stage costs and saves by itself
    journal.log  all that was measured: an interrupted search goes on when it is called again, and
                 another --target takes seconds

A tuned config beside none and presets on the config's labelled test data:

    python tools/tune.py --config CONFIG --checkpoint MY.pth --check tuned.py --scale 1 2

Exit codes: 0; 2 for a mistake, which is named, or a goal out of reach; 130 if interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", required=True, help="config of the trained model; what merges in it is no "
        "matter")  # fmt: skip
    add("--checkpoint", required=True, metavar="FILE", help="its weights")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--target", type=speedup, metavar="1.5x",
        help="speed-up over no merging to reach, at the least loss")  # fmt: skip
    what.add_argument("--max-loss", type=float, metavar="0.2",
        help="loss to keep to, at the greatest speed-up: percent of pixels that change their "
        "class, with labels points of mIoU")  # fmt: skip
    what.add_argument("--check", nargs="+", type=Path, metavar="TUNED",
        help="search nothing: compare tuned configs with none and presets")  # fmt: skip
    add("--images", type=Path, metavar="FOLDER", help="images to tune on, with or without labels")
    add("--labels", type=Path, metavar="FOLDER",
        help="labels of --images, named and coded as the config's data set has them")  # fmt: skip
    add("--data", choices=("train", "val", "test"),
        help="tune on images and labels of the config's data set instead of --images")  # fmt: skip
    add("--data-root", metavar="FOLDER", help="place of the config's data, instead of its own")
    add("--max-images", type=int, metavar="N",
        help="use N images, spread over all (default: 36 to tune, all to check)")  # fmt: skip
    add("--scale", nargs="+", type=float, metavar="X",
        help="size of the input over that of the image file (default: the config's own resizing; "
        "several only with --check)")  # fmt: skip
    add("--out", type=Path, default=Path("tune_output"), metavar="FOLDER")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...: where it shall be fast")
    options.add_dtype(parser, default="float32")
    options.add_launch(parser, default="auto")
    add("--trials", type=int, default=80, metavar="N", help="plans to try (default 80)")
    add("--batch", type=int, default=1, metavar="N", help="images at a time when evaluating")
    add("--time-batch", type=int, default=1, metavar="N", help="images at a time when timing")
    add("--rounds", type=int, default=15, metavar="N", help="timed rounds (default 15)")
    add("--seed", type=int, default=0, help="of the search")
    options.add_config_arguments(parser)
    return parser.parse_args(argv)


def speedup(text: str) -> float:
    """`"1.5x"` or `"1.5"` -> 1.5."""
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 1 < value < 100:
        raise argparse.ArgumentTypeError(f"must be a speed-up above 1, such as 1.5x, got {text!r}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.lab.tune.command import tune

        return tune(args)

    return run(work, "tune.py", "call it again to go on")
