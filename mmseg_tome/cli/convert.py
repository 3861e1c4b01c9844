"""Convert a SegFormer checkpoint of another code base to this package, or to Hugging Face.

    python tools/convert_checkpoint.py segformer.b0.512x512.ade.160k.pth b0.pth --config b0.py
    python tools/convert_checkpoint.py nvidia/segformer-b5-finetuned-ade-640-640 b5.safetensors
    python tools/convert_checkpoint.py b0.pth b0_hf --to hf
    python tools/convert_checkpoint.py unknown.pth --inspect

IN is recognised by its keys: NVlabs' original segmentation models and `mit_b*.pth`; Hugging Face's
(a folder, a file, an index of shards, or `owner/model` on the hub where huggingface_hub is
installed); MMSegmentation's, 0.x and 1.x; the SegFormer++ authors' of segmentation and pose; ours.

OUT is a `.pth` or `.safetensors` file, and with `--to hf` a folder that transformers'
`from_pretrained` loads. It gives the outputs of IN, to rounding. It is written in one piece or,
after a mistake, which is named (exit code 2), not at all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import names
from mmseg_tome.cli.ending import run
from mmseg_tome.config import TRUST_FLAG


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="IN", help="checkpoint file, Hugging Face folder, or owner/model")
    add("out", metavar="OUT", nargs="?", type=Path, help="file, or with --to hf folder, to write")
    add(
        "--to",
        choices=["mmseg_tome", "hf"],
        default="mmseg_tome",
        help="whose format (default: ours)",
    )
    add("--config", type=Path, metavar="OUT.py", help="write a config that runs OUT, too")
    add("--inspect", action="store_true", help="say what IN is and write nothing")
    add("--backbone-only", action="store_true", help="leave the head out, e.g. to train another")
    add("--dataset", choices=names.DATASETS, help="data set of the config, where IN does not say")
    add("--classes", type=Path, metavar="FILE", help="names of the classes, one a line")
    add("--force", action="store_true", help="replace OUT and the config if they exist")
    add(
        TRUST_FLAG,
        action="store_true",
        help="let IN run the code it contains: only if you trust it",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.cli.work.convert import convert_checkpoint

        return convert_checkpoint(args)

    return run(work)
