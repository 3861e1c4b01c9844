"""What `tools/sweep.py` does once its command line is read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence

import cv2
import torch

from mmseg_tome.config import (
    NO_GPU,
    check_checkpoint,
    check_counts,
    check_scales,
    no_effect,
    read_config,
    read_device,
    say,
)
from mmseg_tome.config_datasets import base_datasets
from mmseg_tome.errors import UserError

from . import tables
from .rows import TrainedModel
from .scores import ScoreOptions
from .settings import settings
from .sweep import Options, Sweep


def sweep(args: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    cv2.setNumThreads(0)  # on maps this small, threads of its own cost more than they gain
    if not args.report:
        check_usage(args)
        models = [read_model(args, words) for words in args.model]
        planned = Sweep(models, settings(args.vary), args.scale, read_options(args))
        if args.dry_run:
            print(planned.plan())
            return 0
        with planned.holding_folder():
            if args.accuracy:
                planned.evaluate()
            if args.time:
                planned.time()
    if args.part is None:
        print(*tables.write(args.out), sep="\n")
    return 0


def check_usage(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is built.

    Raises:
        UserError: Says what and, where there is a way out, which.
    """
    if not args.model:
        raise UserError("give at least one --model NAME CONFIG CHECKPOINT ...")
    for words in args.model:
        if len(words) < 3:
            raise UserError(f"--model {' '.join(words)}: needs NAME CONFIG CHECKPOINT ...")
        if not re.fullmatch(r"[\w.]+", words[0]):
            raise UserError(f"--model {words[0]}: a name has letters, digits, _ and . alone")
        for checkpoint in words[2:]:
            if "://" in checkpoint:
                raise UserError(f"checkpoint {checkpoint}: download it first, a sweep needs files")
            check_checkpoint(checkpoint)
    names = [words[0] for words in args.model]
    if len(set(names)) < len(names):
        raise UserError("two --model have one name: name all checkpoints of a model in one")
    check_counts(args, "batch", "workers", "max_images", "rounds", "time_batch")
    check_scales(args.scale)
    if args.bands and not 0 < args.bands[0] < args.bands[1]:
        raise UserError("--bands needs two areas in pixels, the smaller one first")
    if not args.boundary_ratio > 0:
        raise UserError("--boundary-ratio must be above 0")
    read_part(args.part)
    if args.part and args.time:
        raise UserError(
            "--time does not go with --part: processes that share a device spoil each other's "
            "times. Call once more without --part when all parts are done"
        )
    if not args.accuracy and not args.time:
        raise UserError("--no-accuracy without --time leaves nothing to do")
    say(*check_launch(args))


def check_launch(args: argparse.Namespace) -> Iterator[str]:
    """Yield a warning where --launch has no effect on what --device times.

    Raises:
        UserError: There is no such device.
    """
    on_gpu = read_device(args.device).type == "cuda"
    if args.launch == "graphs" and not on_gpu:
        yield no_effect("--launch graphs", NO_GPU)


def read_part(text: str | None) -> tuple[int, int]:
    """`"2/4"` -> `(1, 4)`, from 0; no text is the whole."""
    if text is None:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise UserError(f"--part must be I/N with I from 1 to N, such as 1/4, got {text!r}")
    return part - 1, parts


def read_options(args: argparse.Namespace) -> Options:
    """How the sweep runs."""
    thin, bands = (value and tuple(value) for value in (args.thin, args.bands))
    return Options(
        out=args.out,
        device=torch.device(args.device),
        dtype=args.dtype,
        batch=args.batch,
        workers=args.workers,
        max_images=args.max_images,
        scores=ScoreOptions(thin, bands, args.boundary_ratio),
        part=read_part(args.part),
        time_batches=tuple(dict.fromkeys(args.time_batch)),
        rounds=args.rounds,
        launch=args.launch,
    )


def read_model(args: argparse.Namespace, words: Sequence[str]) -> TrainedModel:
    """Read `NAME CONFIG CHECKPOINT ...`.

    Raises:
        UserError: The config is not there or has no model.
    """
    name, config, *checkpoints = words
    cfg = read_config(argparse.Namespace(**{**vars(args), "config": config}))
    if cfg.get("test_dataloader"):
        set_data_root(cfg.test_dataloader.dataset, args.data_root)
    return TrainedModel(name, cfg, tuple(checkpoints))


def set_data_root(dataset: dict, root: str | None) -> None:
    """Let a data set be read from another place than its config says, if one is given."""
    for part in base_datasets(dataset) if root else ():
        part["data_root"] = root
