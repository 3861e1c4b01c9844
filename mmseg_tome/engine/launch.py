"""What `tools/train.py`, `tools/test.py` and `tools/infer.py` share: reading configs, running them.

The command lines are those of the mm tools, for segmentation and for pose in one: an option that
only one of them has works where its config can take it, and is refused where it cannot.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config

from mmseg_tome.config import TRUST_VARIABLE, is_pose, read_config_file
from mmseg_tome.config_datasets import base_datasets
from mmseg_tome.engine import additions, switches
from mmseg_tome.engine.additions import OURS
from mmseg_tome.engine.collate import stop_loaders
from mmseg_tome.engine.cpu import adapt_to_cpu
from mmseg_tome.errors import CheckpointError, DataError, UserError


def read_config(args: argparse.Namespace) -> Config:
    """Read the config that `args` name and apply the options of `add_config_arguments` to it.

    Raises:
        UserError: As `read_config_file`.
    """
    if args.trust_checkpoint:
        os.environ[TRUST_VARIABLE] = "1"
    cfg = read_config_file(args.config, args.cfg_options)
    _adopt_the_authors_models(cfg)
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that `args` name and apply the common options to it.

    Raises:
        UserError: The file is missing or cannot be read, or an option does not fit it.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(args)
    cfg.launcher = args.launcher
    # The command line goes before the config, the config before the file's name.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    _save_whole_checkpoints(cfg)
    if args.show or args.show_dir:
        _draw_predictions(cfg, args)
    gpu = switches.has_gpu()
    added = additions.complete(cfg, gpu, given=args.cfg_options or ())
    switches.say(added, *switches.use_launch(cfg, args.launch, gpu))
    if args.show_merging:
        switches.say(switches.use_show_merging(cfg, args.interval))
    return cfg


def build_runner(cfg: Config, stages: tuple[str, ...]):
    """Check that the data of `stages` ("train", "val", "test") is there, then build the runner.

    Raises:
        DataError: A folder or file of the data is missing.
        UserError: torchvision is broken.
    """
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    check_torchvision()
    for stage in stages:
        check_data(cfg.get(f"{stage}_dataloader"))
    adapt_to_cpu(cfg)
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


def run_to_end(runner, work: Callable[[], object]) -> None:
    """Do a runner's work, then end the processes that load its data."""
    try:
        work()
    finally:
        stop_loaders(runner)


def check_torchvision() -> None:
    """Raise UserError if torchvision is there but broken: every runner imports it if it can."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except Exception as error:
        raise UserError(
            f"the installed torchvision does not match torch ({error}): uninstall it, nothing "
            "here needs it, or install the one that matches"
        ) from None


def check_data(dataloader: dict | None) -> None:
    """Raise DataError unless the folders and annotation files of a data loader exist."""
    for dataset in base_datasets((dataloader or {}).get("dataset")):
        root = dataset.get("data_root") or ""
        parts = [*(dataset.get("data_prefix") or {}).values(), dataset.get("ann_file") or ""]
        parts = [part for part in parts if isinstance(part, str)]
        paths = [root, *(os.path.join(root, part) for part in parts if part)]
        paths.append(dataset.get("bbox_file") or "")  # MMPose does not look for it in the root
        for path in paths:
            if path and "://" not in path and not Path(path).expanduser().exists():
                raise DataError(
                    f"{dataset['type']}: {path} does not exist (from {Path.cwd()}). Put or link "
                    "the data there as the README describes, or name its folder in the "
                    "config's data_root"
                )


def choose_checkpoint(args: argparse.Namespace, cfg: Config) -> str:
    """The weights to run: those of `--checkpoint`, else the config's.

    Raises:
        UserError: There are none, or the file is missing.
    """
    checkpoint = args.checkpoint or cfg.get("load_from")
    if not checkpoint:
        raise UserError("no checkpoint: name one with --checkpoint, or set load_from in the config")
    check_checkpoint(checkpoint)
    return checkpoint


def check_checkpoint(path: str | None) -> None:
    """Raise CheckpointError unless `path` is an address or an existing file."""
    if path and "://" not in path and not Path(path).expanduser().is_file():
        raise CheckpointError(f"checkpoint {path} does not exist (from {Path.cwd()})")


def _adopt_the_authors_models(cfg: Config) -> None:
    """Let the authors' config files run: they name stock classes, which they had replaced."""
    backbone = cfg.model.get("backbone") or {}
    stock = backbone.get("type") in ("MixVisionTransformer", "mmseg.MixVisionTransformer")
    if stock and ("tome_cfg" in backbone or "down_sample" in backbone):
        backbone.type = f"{OURS}MixVisionTransformer"
    head = cfg.model.get("head") or {}
    if head.get("type") == "SegformerHead" and "num_keypoints" in head:
        head.type = f"{OURS}SegformerHeatmapHead"
        head.out_channels = head.pop("num_keypoints")


def _save_whole_checkpoints(cfg: Config) -> None:
    hook = (cfg.get("default_hooks") or {}).get("checkpoint")
    if hook is not None and hook.get("type") in ("CheckpointHook", "mmengine.CheckpointHook"):
        hook["type"] = f"{OURS}SaveFirstCheckpointHook"


def _draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise UserError("--show and --show-dir need a visualization hook in default_hooks")
    hook["enable" if is_pose(cfg) else "draw"] = True
    hook["show"] = args.show
    hook["wait_time"] = args.wait_time
    # One stack's hook paints every sample of a test, the other every 50th, unless told.
    hook["interval"] = args.interval or 1
    if is_pose(cfg):
        hook["out_dir"] = args.show_dir
    elif args.show_dir:
        cfg.visualizer["save_dir"] = args.show_dir
