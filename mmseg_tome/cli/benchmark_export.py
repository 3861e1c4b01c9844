"""Time a config's exported networks, merged, unmerged and stock, in every runtime beside torch.

The stock network of mmseg and ours under every preset get the same weights (random ones without a
checkpoint), are written as `mmseg-tome export` writes them, and compared with torch on a rendered
street. Then each round runs every network once in every runtime, so that whatever else the machine
does meets all of them. Printed are medians, agreement with torch, and versions.

Runtimes: torch; onnx, ONNX Runtime; openvino; executorch, with XNNPACK; web, the page of
`export --format web` in Chromium.

Examples:
  mmseg-tome benchmark-export segformerpp_fast_cityscapes --size 1024x1024
  mmseg-tome benchmark-export my_config.py my.pth --size 512x512 --runtimes torch onnx openvino web
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import command


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    about = (options.CONFIG[0], "config; its own tome_cfg is not used")
    parser = options.Parser(__doc__, about, ("[CHECKPOINT]", "weights; random ones without"))
    add = parser.add_argument
    add("--size", required=True, metavar="HxW", help="height and width in pixels")
    options.add_presets(parser, ["none", "hq", "fast", "n2d", "quality"])
    add("--runtimes", nargs="+", default=["torch", "onnx"], metavar="NAME",
        help="torch, onnx, openvino, executorch, web (default: torch onnx)")  # fmt: skip
    add("--no-stock", action="store_true", help="leave mmseg's own network out")
    add("--rounds", type=int, default=7, metavar="N",
        help="that are measured, after one that warms up (default 7)")  # fmt: skip
    add("--threads", type=int, default=os.cpu_count(), metavar="N",
        help="of torch, ONNX Runtime and OpenVINO; the others take what they like")  # fmt: skip
    add("--opset", type=int, default=names.OPSET, help=f"default {names.OPSET}")
    add("--scores-mib", type=int, default=names.SCORES_MIB, metavar="N", help="as in export")
    add("--ort-web", type=Path, metavar="DIR/TGZ", help="as in export")
    add("--config", metavar="FILE", help="the same as CONFIG")
    add("--checkpoint", metavar="FILE", help="the same as CHECKPOINT")
    options.add_config_arguments(parser)
    return parser.read(argv, "config", "checkpoint", required=["config"])


main = command(parse_args, "mmseg_tome.lab.exported.command:time_exported")
