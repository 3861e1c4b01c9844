"""Train a segmentation or pose model: the command line of the mm tools.

The terminal shows progress and results; mm's own log goes to a file in the work dir.

Examples:
  mmseg-tome train segformerpp_hq_cityscapes --dtype bfloat16
  mmseg-tome train b0/segformerpp_b0_fast_ade20k --work-dir runs/b0 --batch-size 4
  mmseg-tome train my_config.py --work-dir runs/mine --resume
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command
from mmseg_tome.config import DTYPES, check_checkpoint, say
from mmseg_tome.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, options.CONFIG)
    add = parser.add_argument
    add("--resume", nargs="?", const="auto", metavar="FILE",
        help="go on from this checkpoint, or from the latest one in the work dir")  # fmt: skip
    add("--dtype", choices=DTYPES,
        help="autocast's data type; float32: none (default: the config's)")  # fmt: skip
    add("--amp", action="store_true", help="autocast, as in the mm tools")
    add("--no-validate", action="store_true", help="do not validate in between")
    add("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    options.add_model(parser, help="weights to start from, in place of the config's load_from")
    options.add_common_arguments(parser)
    options.add_verbosity(parser)
    return parser.read(argv, "config", required=["config"])


def train(args: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        UserError: As `load_config` and `build_runner`, or options do not go together.
    """
    check_checkpoint(args.checkpoint)  # at once: the mm packages take seconds to import
    options.see_only(args.device)
    from mmseg_tome import compat  # noqa: F401  before anything of the mm packages
    from mmseg_tome.cli import running, switches

    cfg = running.load_config(args)
    if args.batch_size:
        cfg.train_dataloader.batch_size = args.batch_size
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    gpu = switches.has_gpu()
    say(*switches.use_autocast(cfg, args.dtype, args.amp, gpu))
    if args.auto_scale_lr:
        if not cfg.get("auto_scale_lr"):
            raise UserError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if args.checkpoint:
        if args.resume is not None:
            raise UserError("--checkpoint starts a training, --resume goes on with one")
        cfg.load_from, cfg.resume = args.checkpoint, False
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
        running.run_to_end(cfg, ("train", "val"), args)


main = command(parse_args, train)
