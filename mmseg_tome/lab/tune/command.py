"""What `tools/tune.py` does once its command line is read."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmseg_tome import config
from mmseg_tome.config import check_checkpoint, check_counts, check_scales, is_pose, say
from mmseg_tome.config_datasets import change_pipelines, find_test_pipeline
from mmseg_tome.errors import DataError, UserError
from mmseg_tome.files import only_one, progress_of
from mmseg_tome.lab.output import markdown_table
from mmseg_tome.lab.sweep.command import check_launch, set_data_root
from mmseg_tome.lab.sweep.images import Images, Samples
from mmseg_tome.lab.sweep.network import Network, build_network, time_settings
from mmseg_tome.lab.sweep.scores import Evaluator
from mmseg_tome.lab.sweep.settings import NONE, Setting
from mmseg_tome.merging import PRESETS

COMPARED = ("hq", "fast", "hq-prop", "fast-prop")
STOCK = ("MixVisionTransformer", "mmseg.MixVisionTransformer")


def tune(args: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    check_usage(args)
    cfg = read_config(args)
    print(check(args, cfg) if args.check else search(args, cfg))
    return 0


def check_usage(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is built.

    Raises:
        UserError: Says what and, where there is a way out, which.
    """
    check_counts(args, "max_images", "trials", "batch", "time_batch", "rounds")
    check_scales(args.scale or ())
    if "://" in args.checkpoint:
        raise UserError(f"checkpoint {args.checkpoint}: download it first, tuning needs a file")
    check_checkpoint(args.checkpoint)
    say(*check_launch(args))
    if args.check:
        if args.images or args.labels or args.data:
            raise UserError("--check compares on the config's test data: leave out --images, "
                "--labels and --data")  # fmt: skip
        if missing := [path for path in args.check if not path.is_file()]:
            raise UserError(f"config {missing[0]} does not exist")
        return
    if args.scale and len(args.scale) > 1:
        raise UserError("several --scale go with --check alone: each size has its best merging")
    if (args.images is None) == (args.data is None):
        raise UserError("give --images FOLDER, or --data train for the config's own data set")
    if args.labels and not args.images:
        raise UserError("--labels goes with --images; --data has labels of its own")
    for folder in (args.images, args.labels):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{folder} is no folder")
    if args.max_loss is not None and not args.max_loss >= 0:
        raise UserError("--max-loss must be at least 0")
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError("the search needs Optuna: pip install optuna (the extra `tune`)") from None


def read_config(args: argparse.Namespace):
    """The config, with the data that the command line names as its test data.

    Raises:
        UserError: It is not there, is no segmentor's, or has no such data.
    """
    cfg = config.read_config(args)
    if is_pose(cfg):
        raise UserError("the config is one of pose; the search compares segmentations")
    if cfg.model.get("backbone", {}).get("type") in STOCK:
        cfg.model.backbone.type = "mmseg_tome.MixVisionTransformer"  # the same but for merging
    if args.data in ("train", "val"):
        if not cfg.get(f"{args.data}_dataloader"):
            raise DataError(f"the config has no {args.data}_dataloader")
        cfg.test_dataloader.dataset = data_of(cfg, args.data)
    if cfg.get("test_dataloader"):
        set_data_root(cfg.test_dataloader.dataset, args.data_root)
    return cfg


def data_of(cfg, split: str) -> dict:
    """The data set of another split, read as test data is."""
    dataset = cfg[f"{split}_dataloader"].dataset
    while "dataset" in dataset:  # RepeatDataset and the like
        dataset = dataset.dataset
    pipeline = find_test_pipeline(cfg)
    return change_pipelines(dataset, lambda _: pipeline)


def read_images(args: argparse.Namespace, cfg) -> Samples:
    """The images to tune on.

    Raises:
        UserError: There are none, or one of them or its label cannot be read.
    """
    from mmseg_tome.lab.tune.images import FolderImages, labelled

    scale = args.scale[0] if args.scale else None
    limit = args.max_images or 36
    if args.data:
        return Images(cfg, scale, limit, skip_broken=True)
    if args.labels:
        return labelled(cfg, args.images, args.labels, scale, limit=limit, skip_broken=True)
    return FolderImages(cfg, args.images, scale, limit)


def search(args: argparse.Namespace, cfg) -> str:
    """Tune; returns what to say."""
    from mmseg_tome.lab.tune.choose import Goal
    from mmseg_tome.lab.tune.tuning import Options
    from mmseg_tome.lab.tune.tuning import tune as run

    images = read_images(args, cfg)
    same = ("out", "dtype", "trials", "batch", "time_batch", "rounds", "seed", "launch")
    options = Options(
        device=torch.device(args.device),
        goal=Goal(args.target, args.max_loss),
        **{name: getattr(args, name) for name in same},
    )
    gc.freeze()  # what is loaded by now stays: the collection before every timing skips it
    source = str(args.images or f"{args.data} data of {Path(args.config).name}")
    with only_one(args.out):
        return run(cfg, Path(args.config), args.checkpoint, images, source, options)


def check(args: argparse.Namespace, cfg) -> str:
    """Compare tuned configs with none and presets on labelled images; returns a table."""
    settings = [NONE, *(Setting(name, PRESETS[name]) for name in COMPARED)]
    for path in args.check:
        found = config.read_config(argparse.Namespace(**{**vars(args), "config": str(path)}))
        name = path.stem if len(args.check) == 1 else path.with_suffix("").as_posix()
        settings.append(Setting(name, found.model.backbone.get("tome_cfg")))
    rows = []
    scales = args.scale or [None]
    with progress_of("rows", len(scales) * len(settings)) as advance:
        for scale in scales:
            rows += compare(args, cfg, settings, scale, advance)
    heads = ("input", "merging", "mIoU", "agreement", "ms per image", "speed-up")
    return "\n".join(markdown_table(heads, rows))


def compare(
    args: argparse.Namespace,
    cfg,
    settings: Sequence[Setting],
    scale: float | None,
    advance: Callable[[str], None],
) -> list[list[str]]:
    """Evaluate and time settings, the first of which is `NONE`: rows of the table of `check`."""
    device = torch.device(args.device)
    images = Images(cfg, scale, args.max_images)
    evaluator = Evaluator(Network(cfg, args.checkpoint, device, args.dtype), images, args.batch)
    scores = []
    for setting in settings:
        scores.append(evaluator.evaluate(setting))
        advance(setting.name)
    times = time_settings(
        build_network(cfg, args.checkpoint), settings, images.hw, args.time_batch, device,
        args.dtype, args.rounds, launch=args.launch,
    )  # fmt: skip
    ms = [found["ms"]["median"] for found in times]
    size = "{1}x{0}".format(*images.hw)
    return [
        [size, setting.name, f"{score['mIoU']:.2f}", f"{score['agreement']:.2f}", f"{own:.1f}",
         f"{ms[0] / own:.2f}x"]
        for setting, score, own in zip(settings, scores, ms, strict=True)
    ]  # fmt: skip
