"""Convert a SegFormer checkpoint of another code base to this package, or to Hugging Face.

IN is recognised by its keys: NVlabs' original segmentation models and `mit_b*.pth`; Hugging Face's
(a folder, a file, an index of shards, or `owner/model` on the hub where huggingface_hub is
installed); MMSegmentation's, 0.x and 1.x; the SegFormer++ authors' of segmentation and pose; ours.

OUT is a `.pth` or `.safetensors` file, and with `--to hf` a folder that transformers'
`from_pretrained` loads. It gives the outputs of IN, to rounding. It is written in one piece or,
after a mistake, which is named (exit code 2), not at all.

Examples:
  mmseg-tome convert segformer.b0.512x512.ade.160k.pth b0.pth --write-config b0.py
  mmseg-tome convert nvidia/segformer-b5-finetuned-ade-640-640 b5.safetensors
  mmseg-tome convert b0.pth b0_hf --to hf
  mmseg-tome convert unknown.pth --inspect
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import command, ignore_developer_warnings
from mmseg_tome.config import TRUST_FLAG, TRUST_VARIABLE
from mmseg_tome.errors import ConversionError, UserError
from mmseg_tome.files import CONFIGS

if TYPE_CHECKING:
    from mmseg_tome.checkpoints import Checkpoint

OURS, HUGGING_FACE = "mmseg_tome", "hf"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(
        __doc__,
        ("IN", "checkpoint file, Hugging Face folder, or owner/model"),
        ("[OUT]", "file, or with --to hf folder, to write"),
    )
    add = parser.add_argument
    add("--checkpoint", dest="source", metavar="IN", help="the same as IN")
    add("--out", type=Path, metavar="OUT", help="the same as OUT")
    add("--to", choices=[OURS, HUGGING_FACE], default=OURS, help="whose format (default: ours)")
    add("--write-config", dest="config", type=Path, metavar="FILE",
        help="write a config that runs OUT, too")  # fmt: skip
    options.also(parser, "--write-config", "--config")
    add("--inspect", action="store_true", help="say what IN is and write nothing")
    add("--backbone-only", action="store_true", help="leave the head out, e.g. to train another")
    add("--dataset", choices=names.DATASETS, help="data set of the config, where IN does not say")
    add("--classes", type=Path, metavar="FILE", help="names of the classes, one a line")
    add("--force", action="store_true", help="replace OUT and the config if they exist")
    add(TRUST_FLAG, action="store_true",
        help="let IN run the code it contains: only if you trust it")  # fmt: skip
    options.add_verbosity(parser)
    return parser.read(argv, "source", "out", required=["source"])


def convert_checkpoint(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if not args.verbose:
        ignore_developer_warnings()
    if args.trust_checkpoint:
        os.environ[TRUST_VARIABLE] = "1"
    try:
        run(args)
    except ConversionError as error:
        message = str(error)
        named = args.source in message or str(args.out) in message
        raise UserError(message if named else f"{args.source}: {message}") from None
    except OSError as error:
        raise UserError(f"{error.filename or args.source}: {error.strerror or error}") from None


def run(args: argparse.Namespace) -> None:
    """Convert as the command line says.

    Raises:
        ConversionError: IN cannot be recognised or converted, or OUT cannot be written.
        UserError: The command line does not fit, or IN is unsafe to read.
        OSError: IN cannot be read.
    """
    from mmseg_tome.checkpoints.config_file import make_config_text
    from mmseg_tome.checkpoints.writing import write, write_hugging_face, write_text

    check_outputs(args)
    checkpoint = read(args)
    print("\n".join(summary(checkpoint)))
    if args.inspect:
        return
    text = None
    if args.config:  # before anything is written: it may be impossible
        text = make_config_text(checkpoint, args.out, args.config, CONFIGS, args.dataset)
    if args.to == HUGGING_FACE:
        write_hugging_face(checkpoint, args.out)
    else:
        write(checkpoint, args.out)
    print(f"written: {args.out}")
    if args.to == HUGGING_FACE and (checkpoint.tome_cfg or checkpoint.down_sample):
        print("note: transformers merges no tokens, outputs are those of the model without merging")
    if text:
        write_text(text, args.config)
        print(f"written: {args.config}")


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError unless what is to be written can be, and replaces nothing unasked."""
    if args.inspect:
        return
    from mmseg_tome.checkpoints.writing import PICKLES, SAFETENSORS

    if args.out is None:
        raise UserError("name OUT, the file or folder to write, or ask for --inspect")
    if args.to == HUGGING_FACE:
        if args.config:
            raise UserError("--write-config is for files of mmseg_tome, not for --to hf")
        if args.out.is_file() or args.out.suffix in (SAFETENSORS, *PICKLES):
            raise UserError(f"with --to hf, OUT is a folder, not a file as {args.out}")
        if (
            args.out.is_dir()
            and not (args.out / "config.json").is_file()
            and any(args.out.iterdir())
        ):
            raise UserError(f"{args.out} exists and is no Hugging Face model")
    elif args.out.suffix not in (SAFETENSORS, *PICKLES) or args.out.is_dir():
        raise UserError(f"OUT must be a .pth or .safetensors file, not {args.out}")
    if args.config and args.config.suffix != ".py":
        raise UserError(f"--write-config must be a .py file, not {args.config}")
    for path in filter(None, (args.out, args.config)):
        if path.resolve() == Path(args.source).resolve():
            raise UserError(f"{path} is IN itself")
        if path.exists() and not args.force:
            raise UserError(f"{path} exists; --force replaces it")


def read(args: argparse.Namespace) -> Checkpoint:
    """Read and convert IN, with what else the command line says of it.

    Raises:
        ConversionError: It cannot be read, recognised or converted.
        UserError: It is unsafe to read, or the names of the classes cannot be read.
    """
    from mmseg_tome.checkpoints import convert
    from mmseg_tome.checkpoints.checkpoint import check_classes
    from mmseg_tome.checkpoints.config_file import check_count
    from mmseg_tome.checkpoints.loading import load_from_local
    from mmseg_tome.checkpoints.reading import read_source

    checkpoint = convert(read_source(args.source, load_from_local))
    if args.classes:
        checkpoint = check_classes(replace(checkpoint, classes=read_classes(args.classes)))
    if args.dataset and checkpoint.head:
        check_count(args.dataset, checkpoint.head.outputs)
    return checkpoint.backbone() if args.backbone_only else checkpoint


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line.

    Raises:
        UserError: There is no such file, or it is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"--classes {path} does not exist") from None
    except ValueError:
        raise UserError(f"--classes {path} is not a text file") from None
    return tuple(line.strip() for line in lines if line.strip())


def summary(checkpoint: Checkpoint) -> list[str]:
    """What a user wants to know of a checkpoint, a line each."""
    from mmseg_tome.checkpoints.config_file import known_dataset

    arch, head = checkpoint.architecture, checkpoint.head
    size = f"MiT-{arch.variant.upper()}" if arch.variant else "MiT of another size"
    lines = [
        f"format:     {checkpoint.origin}",
        f"variant:    {size} (channels {list(arch.channels)}, blocks {list(arch.num_layers)})",
        f"task:       {checkpoint.task}",
    ]
    if head:
        kind = "linear projections" if head.linear else "projections with norm and ReLU"
        lines.append(f"head:       {kind}, {head.channels} channels")
        known = known_dataset(checkpoint)
        named = f", as {known}" if known else ""
        if head.task == "pose":
            lines.append(f"keypoints:  {head.outputs}{named}")
        else:
            names = checkpoint.classes
            shown = (
                ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "unnamed"
            )
            lines.append(f"classes:    {head.outputs}{named} ({shown})")
    if checkpoint.tome_cfg or checkpoint.down_sample:
        lines.append(f"merging:    {checkpoint.tome_cfg or 'images at half size'}")
    lines.append(f"parameters: {checkpoint.parameters:,}")
    lines.append(f"norms:      epsilon {checkpoint.norm_eps:g}")
    if checkpoint.dropped:
        lines.append(f"left out:   {', '.join(checkpoint.dropped[:4])} (no output depends on them)")
    return lines


main = command(parse_args, convert_checkpoint)
