"""What `train` and `test` share: from a command line to a runner, and running it to its end.

The command lines are those of the mm tools, for segmentation and for pose in one: an option that
only one of them has works where its config can take it, and is refused where it cannot.
"""

import argparse
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner

from mmseg_tome.cli import additions, switches, terminal
from mmseg_tome.config import OURS, is_first_process, is_pose, read_config, read_device, say
from mmseg_tome.config_datasets import base_datasets
from mmseg_tome.errors import DataError, UserError
from mmseg_tome.files import only_one
from mmseg_tome.hooks import install

PLACES = ("out", "dump", "show_dir")
"""Options that name where more is written than in the work dir."""


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that `args` name and apply the common options to it.

    Raises:
        UserError: The file is missing or cannot be read, or an option does not fit it.
    """
    if getattr(args, "device", None):
        read_device("cpu" if args.device == "cpu" else "cuda")
    install()
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
    say(added, *switches.use_launch(cfg, args.launch, gpu))
    if args.show_merging:
        say(switches.use_show_merging(cfg, args.interval))
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


def run_to_end(cfg: Config, stages: tuple[str, ...], args: argparse.Namespace) -> None:
    """Train or test, then end the processes that load the data; show what `args` ask for.

    Raises:
        UserError: As `build_runner`.
    """
    out, first = sys.stdout, is_first_process()
    training = "train" in stages
    with ExitStack() as stack:
        if not args.verbose:
            stack.enter_context(terminal.log_to_file(out, tables=not training))
        runner = build_runner(cfg, stages)
        stack.callback(stop_loaders, runner)
        if first and not args.verbose:
            hook = terminal.ProgressHook(out, args.quiet)
            stack.callback(hook.stop)
            runner.register_hook(hook, hook.priority)
        runner.train() if training else runner.test()
    if first:
        given = {f"--{name.replace('_', '-')}": getattr(args, name, None) for name in PLACES}
        print(terminal.written(runner, training, given), flush=True)


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


LAST = "last_checkpoint"
"""File in a work dir that names the latest checkpoint."""


def find_resumable(work_dir: str | Path) -> str | None:
    """The latest whole checkpoint of a training in its work dir, or None.

    Checkpoints that are not whole, and a `last_checkpoint` that names none, are told of and passed
    over.
    """
    folder = Path(work_dir)
    named: list[Path] = []
    with suppress(OSError, ValueError):  # absent, or not text
        text = (folder / LAST).read_text().strip()
        named = [Path(text), folder / Path(text).name] if text else []
    found = sorted(folder.glob("*.pth"), key=_progress, reverse=True)
    for path in [*named, *(path for path in found if _progress(path))]:
        if not path.is_file():
            continue
        if zipfile.is_zipfile(path):  # its directory stands at the end
            if named and path not in named:
                print_log(f"{LAST} names no whole checkpoint, {path} is resumed", "current")
            return str(path)
        print_log(f"{path} is not whole and is passed over", "current")
    return None


def _progress(path: Path) -> tuple[int, float]:
    """Order of a training's checkpoints; () of other files."""
    match = re.fullmatch(r"(?:iter|epoch)_(\d+)\.pth", path.name)
    return (int(match[1]), path.stat().st_mtime) if match else ()


@contextmanager
def alone_in(work_dir: str | Path) -> Iterator[None]:
    """Hold a work dir while a training runs; the processes of one job hold it together.

    What an earlier one was writing when it was killed is removed.

    Raises:
        UserError: Another job trains in it, or it cannot be written.
    """
    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0):
        yield
        return
    with only_one(work_dir):
        for left in Path(work_dir).glob(".*.part"):
            with suppress(OSError):
                left.unlink()
        yield


def stop_loaders(runner: Runner) -> None:
    """End the processes that load a runner's data.

    At the end of a program torch waits five seconds for each process that is persistent and pins.
    """
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        if isinstance(loop, BaseLoop):
            for owner in (loop.dataloader, getattr(loop, "dataloader_iterator", None)):
                iterator = getattr(owner, "_iterator", None)
                if hasattr(iterator, "_shutdown_workers"):
                    iterator._shutdown_workers()


def adapt_to_cpu(cfg: Config) -> None:
    """Make a config run where no accelerator is: nothing changes where one is.

    Distributed jobs take the gloo backend and plain batch norm (SyncBN exists on GPUs only),
    and mixed precision takes bfloat16.
    """
    if get_device() != "cpu":
        return
    wrapper = cfg.get("optim_wrapper") or {}
    if wrapper.get("type") == "AmpOptimWrapper":
        scaling = ("type", "loss_scale", "dtype")
        kept = {key: value for key, value in wrapper.items() if key not in scaling}
        cfg.optim_wrapper = dict(type="mmseg_tome.CPUAmpOptimWrapper", **kept)
    if cfg.get("launcher", "none") == "none":
        return  # mmengine itself turns SyncBN into BN in a single process
    cfg.model = _without_sync_bn(cfg.model)
    cfg.merge_from_dict(dict(env_cfg=dict(dist_cfg=dict(backend="gloo"))))
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    if cfg.launcher == "pytorch" and "RANK" in os.environ and not dist.is_initialized():
        # mmengine's own launcher selects a CUDA device whatever the backend is.
        dist.init_process_group(backend="gloo")


def _without_sync_bn(node):
    if isinstance(node, dict):
        node = {key: _without_sync_bn(value) for key, value in node.items()}
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        return ConfigDict(node)
    if isinstance(node, (list, tuple)):
        return type(node)(_without_sync_bn(value) for value in node)
    return node
