"""Time a Hugging Face SegFormer as it is and with merging applied to it, in turns.

    python tools/benchmark_huggingface.py --model b0 --size 1024x1024
    python tools/benchmark_huggingface.py --model nvidia/segformer-b0-finetuned-ade-512-512 \
        --device cuda --dtype bfloat16 --batch 8

`--model b0` to `b5` have random weights, on which times do not depend. Before anything is timed,
the outputs of the model with fused attention and without merging are compared with its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="b0", help="b0 to b5, or a folder or name that transformers can load")
    add("--size", default="1024x1024", metavar="HxW", help="height and width in pixels")
    add("--presets", nargs="+", default=["none", "hq", "fast", "n2d"], help="tome_cfg to compare")
    add("--batch", type=int, default=1)
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    add("--dtype", default="float32", choices=options.DTYPES)
    add("--rounds", type=int, default=7)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.lab.bench.huggingface import time_merging

        time_merging(args)

    return run(work)
