"""Trained checkpoints under many merging settings, without retraining: accuracy and speed.

    python tools/sweep.py --out sweep --data-root data/camvid --scale 1 2 --device cuda \
        --dtype bfloat16 --batch 16 --time \
        --model b0 CONFIG SEED0.pth SEED1.pth SEED2.pth --model b2 CONFIG SEED0.pth

Every setting of the sweeps that --vary names is evaluated for every checkpoint at every scale, and
compared with the same checkpoint without merging. Rows are kept as files below --out: a sweep that
was interrupted goes on where it was, and processes can share one, each with its --part:

    for i in 1 2 3 4; do python tools/sweep.py ... --part $i/4 & done; wait
    python tools/sweep.py ... --time    # alone on the device: times, then the report

Writes sweep.json, sweep.md, sweep.png (what each setting costs) and, with times, tradeoff.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", nargs="+", action="append", default=[], metavar="WORD",
        help="NAME CONFIG CHECKPOINT ...: a model, and its checkpoints if there are several "
        "(seeds); can be given several times")  # fmt: skip
    add("--vary", nargs="+", default=list(names.SWEEPS), choices=names.SWEEPS, metavar="SWEEP",
        help=f"of {' '.join(names.SWEEPS)} (default: all)")  # fmt: skip
    add("--scale", nargs="+", type=float, default=[1.0], metavar="X",
        help="input size over the image file's own (default 1)")  # fmt: skip
    add("--out", type=Path, default=Path("sweep_output"), metavar="FOLDER")
    add("--data-root", metavar="FOLDER", help="place of the test data, instead of the config's")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    options.add_dtype(parser, default="float32")
    add("--batch", type=int, default=1, metavar="N", help="images at a time when evaluating")
    add("--workers", type=int, default=4, metavar="N", help="threads that read images")
    add("--max-images", type=int, metavar="N", help="evaluate on N images, spread over all")
    add("--thin", nargs="+", metavar="CLASS",
        help="classes of the thin mean (default: poles, signs, persons, two-wheelers)")  # fmt: skip
    add("--bands", nargs=2, type=int, metavar=("MEDIUM", "LARGE"),
        help="areas in pixels from which objects are medium, and large (default: COCO's in "
        "proportion to the image's area: 576 5184 at 480x360)")  # fmt: skip
    add("--boundary-ratio", type=float, default=names.BOUNDARY_RATIO, metavar="R",
        help="width of boundary strips over the diagonal (default %(default)s)")  # fmt: skip
    add("--part", metavar="I/N", help="do the I-th of N shares of the rows, and no report")
    add("--accuracy", action=argparse.BooleanOptionalAction, default=True,
        help="--no-accuracy only times")  # fmt: skip
    add("--time", action="store_true", help="time all settings, too")
    add("--time-batch", nargs="+", type=int, default=[1], metavar="N",
        help="images at a time when timing (default 1)")  # fmt: skip
    options.add_launch(parser, default="auto")
    add("--rounds", type=int, default=20, metavar="N", help="timed rounds (default 20)")
    add("--report", action="store_true", help="only gather the rows that are in --out")
    add("--dry-run", action="store_true", help="only say what would be done")
    options.add_config_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.lab.sweep.command import sweep

        return sweep(args)

    return run(work, "sweep.py", "call it again to go on")
