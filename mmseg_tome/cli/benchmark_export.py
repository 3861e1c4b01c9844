"""Time a config's exported networks in ONNX Runtime, merged and unmerged, beside torch.

    python tools/benchmark_export.py --config CONFIG --size 1024x1024 --rounds 7

Every preset is built with random weights, written as tools/export.py writes it and compared with
torch. Then each round runs every preset once in torch and once in ONNX Runtime, so that whatever
else the machine does meets all of them. Printed are medians, quartiles and versions.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, help="config file; its own tome_cfg is not used")
    add("--size", required=True, metavar="HxW", help="height and width in pixels")
    add("--presets", nargs="+", default=["none", "hq", "fast", "n2d"], help="tome_cfg to compare")
    add("--rounds", type=int, default=7, help="that are measured, after one that warms up")
    add("--threads", type=int, default=os.cpu_count(), help="of torch and of ONNX Runtime each")
    add("--opset", type=int, default=names.OPSET, help=f"default {names.OPSET}")
    add("--scores-mib", type=int, default=names.SCORES_MIB, help="as in tools/export.py")
    options.add_config_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.lab.bench.exported import time_exported

        time_exported(args)

    return run(work)
