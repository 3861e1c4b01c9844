"""Measure a table of the paper again, and write it with the paper's numbers beside.

Data and checkpoints are looked for before anything runs. Each row is then run by the standard
commands, train, test and benchmark; a row's state is kept, so that the same command goes on where
the last one ended: what is done is skipped, trainings go on from their latest checkpoint, and what
ran with another command, config or checkpoint runs anew. WORK_DIR/table.md and table.json hold the
table; what was not measured says so.

Exit codes: 0; 1 if a command failed; 2 if a mistake, which is named, kept all from running.

Examples:
  mmseg-tome reproduce cityscapes-inference --data-root data/cityscapes --dry-run
  mmseg-tome reproduce cityscapes-inference --presets none hq fast
  mmseg-tome reproduce ade20k --gpus 4 --keep-going
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import benchmark, options
from mmseg_tome.cli.ending import run
from mmseg_tome.config import TRUST_FLAG
from mmseg_tome.lab.reproduce.tables import TABLES


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, ("TABLE", f"of {', '.join(TABLES)}"))
    add = parser.add_argument
    add("--presets", dest="rows", nargs="+", metavar="NAME",
        help="rows, of none hq fast n2d downsample (default: all)")  # fmt: skip
    options.also(parser, "--presets", "--preset", "--rows")
    add("--table", choices=TABLES, help=argparse.SUPPRESS)
    add("--data-root", type=Path, metavar="DIR", help="of the data set (default: the config's)")
    add("--checkpoint", metavar="FILE",
        help="weights in place of the zoo's: the unmerged model's that are tested, or the "
        "ImageNet ones that trainings start from")  # fmt: skip
    add("--work-dir", type=Path, metavar="DIR",
        help="of states, logs and the table (default: work_dirs/reproduce/TABLE)")  # fmt: skip
    add("--dry-run", action="store_true",
        help="only show the commands, what they need, where to get what is missing")  # fmt: skip
    add("--keep-going", action="store_true", help="go on with the next row when one fails")
    group = parser.add_argument_group("how it runs")
    options.add_device(group)
    add = group.add_argument
    add("--gpus", type=int, default=1, metavar="N",
        help="train and test in N processes, which share the paper's batch")  # fmt: skip
    add("--speed", action=argparse.BooleanOptionalAction, default=True,
        help="measure speed and memory by tools/benchmark.py")  # fmt: skip
    add("--peer", action=argparse.BooleanOptionalAction, default=True,
        help="there, also the stock model with tomesd merging, as the authors run it")  # fmt: skip
    add("--benchmark-options", type=shlex.split, default=[], metavar="TEXT",
        help="further options for it, such as '--dtype bfloat16 --autocast'")  # fmt: skip
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="settings to override in the configs, as in the standard tools")  # fmt: skip
    add(TRUST_FLAG, action="store_true",
        help="let checkpoints run the code they contain: for authors you trust")  # fmt: skip
    args = parser.read(argv, "table", required=["table"])
    if args.table not in TABLES:
        parser.error(f"argument TABLE: invalid choice: {args.table!r} (of {', '.join(TABLES)})")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.lab.reproduce.command import reproduce

        return reproduce(args, benchmark.parse_args)

    return run(work, "reproduce.py", "the same command goes on from here")
