"""Test a segmentation or pose model: the command line of the mm tools.

The terminal shows progress and results; mm's own log goes to a file in the work dir.

Examples:
  mmseg-tome test segformerpp_fast_cityscapes work.pth
  mmseg-tome test segformerpp_none_cityscapes work.pth --preset hq --device cuda:1
  mmseg-tome test my_config.py work.pth --out predictions/ --show-dir painted/
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command
from mmseg_tome.config import check_checkpoint, is_pose
from mmseg_tome.config_names import with_public_weights
from mmseg_tome.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, options.CONFIG, options.CHECKPOINT)
    add = parser.add_argument
    options.add_dtype(parser)
    add("--out", metavar="PATH",
        help="segmentation: folder to save predictions to; pose: file to save the metrics to",
        )  # fmt: skip
    add("--dump", metavar="FILE", help="file (.pkl) to save raw predictions to")
    add("--tta", action="store_true", help="segmentation: augment at test time")
    add("--badcase", action="store_true", help="pose: analyse bad cases")
    options.add_model(parser)
    options.add_common_arguments(parser)
    options.add_verbosity(parser)
    return parser.read(argv, "config", "checkpoint", required=["config"])


def test(args: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        UserError: As `load_config` and `build_runner`, or options do not go together.
    """
    check_checkpoint(args.checkpoint)  # at once: the mm packages take seconds to import
    options.see_only(args.device)
    from mmseg_tome import compat  # noqa: F401  before anything of the mm packages
    from mmseg_tome.cli import running, switches

    cfg = running.load_config(args)
    switches.use_dtype(cfg, args.dtype)
    if args.batch_size:
        cfg.test_dataloader.batch_size = args.batch_size
    cfg.load_from = args.checkpoint or cfg.get("load_from")
    cfg.resume = False
    if not cfg.load_from:
        raise UserError(
            "no checkpoint: name one after the config, or set load_from in the config"
            f"{with_public_weights(args.config)}"
        )
    check_checkpoint(cfg.load_from)
    if args.tta:
        use_tta(cfg)
    if args.badcase:
        use_badcase_analysis(cfg, args)
    if args.dump:
        if not args.dump.endswith((".pkl", ".pickle")):
            raise UserError(f"--dump {args.dump}: the file must end in .pkl or .pickle")
        dump = dict(type="DumpResults", out_file_path=args.dump)
        cfg.test_evaluator = [*evaluators(cfg), dump]
    if args.out and is_pose(cfg):
        save = dict(type="mmseg_tome.SaveMetricsHook", path=args.out)
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), save]
    elif args.out:
        for metric in evaluators(cfg):
            metric["output_dir"] = args.out
            metric["keep_results"] = True
    running.run_to_end(cfg, ("test",), args)


def evaluators(cfg) -> list[dict]:
    """The config's test metrics, one or several, as a list."""
    evaluator = cfg.test_evaluator
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]


def use_tta(cfg) -> None:
    """Put the config's test-time augmentation in place of its test pipeline."""
    from mmseg_tome.config_datasets import change_pipelines

    missing = [key for key in ("tta_pipeline", "tta_model") if not cfg.get(key)]
    if missing:
        raise UserError(f"--tta needs {' and '.join(missing)} in the config")
    dataset = change_pipelines(cfg.test_dataloader.dataset, lambda _: cfg.tta_pipeline)
    cfg.test_dataloader.dataset = dataset
    if cfg.tta_model.type in ("SegTTAModel", "mmseg.SegTTAModel"):
        cfg.tta_model.type = "mmseg_tome.SegTTAModel"  # mmseg's is wrong for binary models
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def use_badcase_analysis(cfg, args: argparse.Namespace) -> None:
    """Turn on MMPose's hook that looks at the worst predictions."""
    hook = (cfg.get("default_hooks") or {}).get("badcase")
    if hook is None:
        raise UserError("--badcase needs a BadCaseAnalysisHook as default_hooks.badcase")
    hook.enable = True
    hook.show = args.show
    hook.wait_time = args.wait_time
    if args.interval is not None:
        hook.interval = args.interval
    if not hook.get("metric"):
        by_loss = hook.get("metric_type", "loss") == "loss"
        hook.metric = cfg.model.head.loss if by_loss else evaluators(cfg)[0]


main = command(parse_args, test)
