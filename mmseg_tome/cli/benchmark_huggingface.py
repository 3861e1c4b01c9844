"""Time a Hugging Face SegFormer as it is and with merging applied to it, in turns.

`b0` to `b5` have random weights, on which times do not depend. Before anything is timed, the
outputs of the model with fused attention and without merging are compared with its own.

Examples:
  mmseg-tome benchmark-huggingface b0 --size 1024x1024
  mmseg-tome benchmark-huggingface nvidia/segformer-b0-finetuned-ade-512-512 --device cuda \\
      --dtype bfloat16 --batch-size 8
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    model = ("[MODEL]", "b0 to b5, or a folder or name that transformers can load (default: b0)")
    parser = options.Parser(__doc__, model, allow_abbrev=True)
    add = parser.add_argument
    add("--model", help="the same as MODEL")
    add("--size", default="1024x1024", metavar="HxW",
        help="height and width in pixels (default: 1024x1024)")  # fmt: skip
    options.add_presets(parser, ["none", "hq", "fast", "n2d"])
    add("--rounds", type=int, default=7, metavar="N", help="timed rounds (default 7)")
    options.add_batch(parser, default=1, help="images at a time (default 1)")
    options.add_device(parser, default="cpu")
    options.add_dtype(parser, default="float32")
    args = parser.read(argv, "model")
    args.model = args.model or "b0"
    return args


main = command(parse_args, "mmseg_tome.lab.bench.huggingface:time_merging")
