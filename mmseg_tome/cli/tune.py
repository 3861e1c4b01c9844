"""Find the merging that costs least for a speed-up, or saves most for a loss, on this device.

A few dozen images are enough, and they need no labels: what merging costs is the percentage of
pixels that change their class. With --labels, or with --data train for the config's own data set,
it is mIoU. Each stage is probed first, then whole plans are tried (Optuna), and the best are timed
for real. The folder of --out gets

    tuned.py     a config that inherits CONFIG and merges as was chosen
    pareto.png   loss against speed-up: all trials, their front, the presets, the choice
    pareto.json  the same in numbers, with what each stage costs and saves by itself
    journal.log  all that was measured: an interrupted search goes on when it is called again, and
                 another --target takes seconds

With --check, a tuned config is compared with none and presets on the config's labelled test data.

Exit codes: 0; 2 for a mistake, which is named, or a goal out of reach; 130 if interrupted.

Examples:
  mmseg-tome tune my_config.py my.pth --images photos/ --target 1.5x --device cuda
  mmseg-tome tune my_config.py my.pth --images photos/ --max-loss 0.2 --out tuned
  mmseg-tome tune my_config.py my.pth --check tuned/tuned.py --scale 1 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    config = ("CONFIG", "config of the trained model; what merges in it is no matter")
    parser = options.Parser(__doc__, config, ("CHECKPOINT", "its weights"), allow_abbrev=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--target", type=speedup, metavar="1.5x",
        help="speed-up over no merging to reach, at the least loss")  # fmt: skip
    what.add_argument("--max-loss", type=float, metavar="0.2",
        help="loss to keep to, at the greatest speed-up: percent of pixels that change their "
        "class, with labels points of mIoU")  # fmt: skip
    what.add_argument("--check", nargs="+", type=Path, metavar="TUNED",
        help="search nothing: compare tuned configs with none and presets")  # fmt: skip
    add = parser.add_argument
    add("--out", type=Path, default=Path("tune_output"), metavar="DIR",
        help="folder of the results (default: tune_output)")  # fmt: skip
    add("--trials", type=int, default=80, metavar="N", help="plans to try (default 80)")
    add("--seed", type=int, default=0, help="of the search")
    add = parser.add_argument_group("data").add_argument
    add("--images", type=Path, metavar="DIR", help="images to tune on, with or without labels")
    add("--labels", type=Path, metavar="DIR",
        help="labels of --images, named and coded as the config's data set has them")  # fmt: skip
    add("--data", choices=("train", "val", "test"),
        help="tune on images and labels of the config's data set instead of --images")  # fmt: skip
    add("--data-root", metavar="DIR", help="place of the config's data, instead of its own")
    add("--max-images", type=int, metavar="N",
        help="use N images, spread over all (default: 36 to tune, all to check)")  # fmt: skip
    add("--scale", nargs="+", type=float, metavar="X",
        help="size of the input over that of the image file (default: the config's own resizing; "
        "several only with --check)")  # fmt: skip
    group = parser.add_argument_group("how it runs")
    options.add_batch(group, default=1, help="images at a time when evaluating (default 1)")
    add = group.add_argument
    add("--time-batch", type=int, default=1, metavar="N", help="images at a time when timing")
    add("--rounds", type=int, default=15, metavar="N", help="timed rounds (default 15)")
    options.add_device(group, default="cpu")
    options.add_dtype(group, default="float32")
    options.add_launch(group, default="auto")
    options.add_model(parser, preset=None)
    wanted = ["config", "checkpoint"]
    return parser.read(argv, *wanted, required=wanted)


def speedup(text: str) -> float:
    """`"1.5x"` or `"1.5"` -> 1.5."""
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = 0.0
    if not 1 < value < 100:
        raise argparse.ArgumentTypeError(f"must be a speed-up above 1, such as 1.5x, got {text!r}")
    return value


main = command(parse_args, "mmseg_tome.lab.tune.command:tune", "tune.py", "call it again to go on")
