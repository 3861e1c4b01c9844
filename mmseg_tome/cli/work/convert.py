"""What `tools/convert_checkpoint.py` does once its command line is read."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from mmseg_tome.checkpoints import Checkpoint, ConversionError, convert
from mmseg_tome.checkpoints.checkpoint import check_classes
from mmseg_tome.checkpoints.config_file import check_count, known_dataset, make_config_text
from mmseg_tome.checkpoints.loading import load_from_local
from mmseg_tome.checkpoints.reading import read_source
from mmseg_tome.checkpoints.writing import (
    PICKLES,
    SAFETENSORS,
    write,
    write_hugging_face,
    write_text,
)
from mmseg_tome.cli.ending import ignore_developer_warnings
from mmseg_tome.config import TRUST_VARIABLE
from mmseg_tome.errors import UserError
from mmseg_tome.files import CONFIGS

OURS, HUGGING_FACE = "mmseg_tome", "hf"


def convert_checkpoint(args: argparse.Namespace) -> None:
    """Do what the command line says."""
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
    if args.out is None:
        raise UserError("name OUT, the file or folder to write, or ask for --inspect")
    if args.to == HUGGING_FACE:
        if args.config:
            raise UserError("--config is for files of mmseg_tome, not for --to hf")
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
        raise UserError(f"--config must be a .py file, not {args.config}")
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
