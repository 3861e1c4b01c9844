"""Trained checkpoints under many merging settings, without retraining: accuracy and speed.

Every setting of the sweeps that --vary names is evaluated for every checkpoint at every scale, and
compared with the same checkpoint without merging. Rows are kept as files in the folder of --out: a
sweep that was interrupted goes on where it was, and processes can share one, each with its --part:

    for i in 1 2 3 4; do mmseg-tome sweep ... --part $i/4 & done; wait
    mmseg-tome sweep ... --time    # alone on the device: times, then the report

Writes sweep.json, sweep.md, sweep.png (what each setting costs) and, with times, tradeoff.png.

Examples:
  mmseg-tome sweep my_config.py my.pth --vary preset downsample --out sweep
  mmseg-tome sweep --model b0 CONFIG SEED0.pth SEED1.pth --model b2 CONFIG SEED0.pth \\
      --scale 1 2 --device cuda --dtype bfloat16 --batch-size 16 --time --out sweep
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import command
from mmseg_tome.config_names import find_config


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    checkpoints = ("[CHECKPOINT ...]", "its weights, one or several (seeds)")
    parser = options.Parser(
        __doc__, ("[CONFIG]", options.CONFIG[1]), checkpoints, allow_abbrev=True
    )
    add = parser.add_argument
    add("--model", nargs="+", action="append", default=[], metavar="WORD",
        help="NAME CONFIG CHECKPOINT ...: a model, and its checkpoints if there are several "
        "(seeds); can be given several times")  # fmt: skip
    add("--vary", nargs="+", default=list(names.SWEEPS), choices=names.SWEEPS, metavar="SWEEP",
        help=f"of {' '.join(names.SWEEPS)} (default: all)")  # fmt: skip
    add("--out", type=Path, default=Path("sweep_output"), metavar="DIR",
        help="folder of rows and report (default: sweep_output)")  # fmt: skip
    add("--part", metavar="I/N", help="do the I-th of N shares of the rows, and no report")
    add("--report", action="store_true", help="only gather the rows that are in --out")
    add("--dry-run", action="store_true", help="only say what would be done")
    add = parser.add_argument_group("data").add_argument
    add("--data-root", metavar="DIR", help="place of the test data, instead of the config's")
    add("--scale", nargs="+", type=float, default=[1.0], metavar="X",
        help="input size over the image file's own (default 1)")  # fmt: skip
    add("--max-images", type=int, metavar="N", help="evaluate on N images, spread over all")
    add("--workers", type=int, default=4, metavar="N", help="threads that read images")
    add = parser.add_argument_group("accuracy").add_argument
    add("--accuracy", action=argparse.BooleanOptionalAction, default=True,
        help="--no-accuracy only times")  # fmt: skip
    add("--thin", nargs="+", metavar="CLASS",
        help="classes of the thin mean (default: poles, signs, persons, two-wheelers)")  # fmt: skip
    add("--bands", nargs=2, type=int, metavar=("MEDIUM", "LARGE"),
        help="areas in pixels from which objects are medium, and large (default: COCO's in "
        "proportion to the image's area: 576 5184 at 480x360)")  # fmt: skip
    add("--boundary-ratio", type=float, default=names.BOUNDARY_RATIO, metavar="R",
        help="width of boundary strips over the diagonal (default %(default)s)")  # fmt: skip
    group = parser.add_argument_group("speed")
    group.add_argument("--time", action="store_true", help="time all settings, too")
    group.add_argument("--time-batch", nargs="+", type=int, default=[1], metavar="N",
        help="images at a time when timing (default 1)")  # fmt: skip
    group.add_argument("--rounds", type=int, default=20, metavar="N",
        help="timed rounds (default 20)")  # fmt: skip
    group = parser.add_argument_group("how it runs")
    options.add_batch(group, default=1, help="images at a time when evaluating (default 1)")
    options.add_device(group, default="cpu")
    options.add_dtype(group, default="float32")
    options.add_launch(group, default="auto")
    options.add_model(parser, preset=None, nargs="+")
    args = parser.read(argv, "config", rest="checkpoint")
    if args.config:
        args.model.append([Path(args.config).stem, args.config, *args.checkpoint])
    args.model = [[*w[:1], *map(find_config, w[1:2]), *w[2:]] for w in args.model]
    return args


main = command(
    parse_args, "mmseg_tome.lab.sweep.command:sweep", "sweep.py", "call it again to go on"
)
