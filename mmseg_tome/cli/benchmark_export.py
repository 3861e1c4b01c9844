"""Time a config's exported networks in ONNX Runtime, merged and unmerged, beside torch.

Every preset is built with random weights, written as `mmseg-tome export` writes it and compared
with torch. Then each round runs every preset once in torch and once in ONNX Runtime, so that
whatever else the machine does meets all of them. Printed are medians, quartiles and versions.

Examples:
  mmseg-tome benchmark-export segformerpp_fast_cityscapes --size 1024x1024
  mmseg-tome benchmark-export my_config.py --size 512x512 --presets none n2d --rounds 15
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import command


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, (options.CONFIG[0], "config; its own tome_cfg is not used"))
    add = parser.add_argument
    add("--size", required=True, metavar="HxW", help="height and width in pixels")
    options.add_presets(parser, ["none", "hq", "fast", "n2d"])
    add("--rounds", type=int, default=7, metavar="N",
        help="that are measured, after one that warms up (default 7)")  # fmt: skip
    add("--threads", type=int, default=os.cpu_count(), metavar="N",
        help="of torch and of ONNX Runtime each")  # fmt: skip
    add("--opset", type=int, default=names.OPSET, help=f"default {names.OPSET}")
    add("--scores-mib", type=int, default=names.SCORES_MIB, metavar="N", help="as in export")
    add("--config", metavar="FILE", help="the same as CONFIG")
    options.add_config_arguments(parser)
    return parser.read(argv, "config", required=["config"])


main = command(parse_args, "mmseg_tome.lab.bench.exported:time_exported")
