"""Export a trained segmentation or pose model to a file that runs without this package.

    python tools/export.py --config config.py --checkpoint my.pth --size 1024x1024 --out model.onnx

--format onnx (the default) writes ONNX of standard operators, for ONNX Runtime, OpenVINO, TensorRT
and others; --format torch-export writes torch's own .pt2. Either takes normalised images
`[B, C, H, W]` and gives logits or heatmaps at a quarter of that size; mean, std, order of channels,
names of classes or keypoints, preset and more are in its metadata. tools/infer.py --model runs it.
A file takes images of one size; with --dynamic-size of any from a smallest one on, which is found.

Before the file is put in place, it is loaded again and compared with the model in torch, on noise
and on an image-like input. A file that exists is replaced only by one that passed.

Exit codes: 0; 2 if a mistake, which is named, or a difference kept the file from being written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, help="config file")
    add("--checkpoint", help="checkpoint; the config's load_from if none")
    add("--out", required=True, type=Path, metavar="FILE", help="a name in .onnx or .pt2")
    add(
        "--format",
        choices=["onnx", "torch-export"],
        default="onnx",
        help="what to write (default: onnx)",
    )
    add(
        "--size",
        metavar="HxW",
        help="height and width of the images, in pixels (default: of pose the codec's input size, "
        "of segmentation the training crop's)",
    )
    add(
        "--dynamic-size",
        action="store_true",
        help="segmentation: images of any height and width, read and tested as the config says; "
        "--size only says what is compared",
    )
    add("--dynamic-batch", action="store_true", help="any number of images at once, not one")
    add(
        "--opset",
        type=int,
        default=names.OPSET,
        help=f"of ONNX (default {names.OPSET})",
    )
    add(
        "--scores-mib",
        type=int,
        default=names.SCORES_MIB,
        metavar="N",
        help="ONNX: attention scores of an image that exist at a time, in MiB; 0: all, for "
        f"runtimes that fuse attention themselves (default {names.SCORES_MIB})",
    )
    add(
        "--half",
        action="store_true",
        help="float16 inside, for GPUs: on a CPU ONNX Runtime is slower than with float32",
    )
    add("--int8", action="store_true", help="ONNX: 8-bit integers, by ONNX Runtime's quantiser")
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="folder of images by which --int8 finds ranges; without it only linear layers "
        "become integers, with ranges found while running",
    )
    options.add_config_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.cli.work.export import export

        return export(args)

    return run(work)
