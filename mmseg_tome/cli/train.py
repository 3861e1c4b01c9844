"""Train a segmentation or pose model: the command line of the mm tools.

python tools/train.py configs/segformerpp_hq_cityscapes.py --dtype bfloat16
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import run
from mmseg_tome.config import DTYPES, check_checkpoint, say
from mmseg_tome.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a model", allow_abbrev=False)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or from the latest one in the work dir",
    )
    precision = parser.add_argument_group("mixed precision")
    precision.add_argument("--amp", action="store_true", help="autocast, as in the mm tools")
    precision.add_argument(
        "--dtype",
        choices=DTYPES,
        help="autocast's data type; float32: none (default: the config's)",
    )
    parser.add_argument("--no-validate", action="store_true", help="do not validate in between")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size"
    )
    options.add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: train(parse_args(argv)))


def train(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from mmseg_tome import compat  # noqa: F401  before anything of the mm packages
    from mmseg_tome.cli import running, switches

    cfg = running.load_config(args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    gpu = switches.has_gpu()
    say(*switches.use_autocast(cfg, args.dtype, args.amp, gpu))
    if args.auto_scale_lr:
        if not cfg.get("auto_scale_lr"):
            raise UserError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = args.resume
        if args.resume == "auto":
            cfg.load_from = running.find_resumable(cfg.work_dir)
            cfg.resume = cfg.load_from is not None
    if "preprocess_cfg" in cfg:
        cfg.model.setdefault("data_preprocessor", cfg.preprocess_cfg)
    check_checkpoint(cfg.get("load_from"))
    with running.alone_in(cfg.work_dir):
        runner = running.build_runner(cfg, ("train", "val"))
        running.run_to_end(runner, runner.train)
