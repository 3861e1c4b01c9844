"""Reading configs, and what command lines say in their words: options, devices, sizes.

A config is a Python file of the user's: it may raise anything. Whatever goes wrong is said in one
line. Importing this imports neither torch nor the mm stack, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_tome.config_names import find_config, nearest_configs, with_public_weights
from mmseg_tome.errors import CheckpointError, UserError, first_line

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config

LAUNCHES = ("auto", "graphs", "eager")
"""How kernels may be launched: by graphs where that is safe, by graphs, one by one."""
DTYPES = ("float32", "float16", "bfloat16")
"""What may be computed in, where nothing is trained."""
TRUST_FLAG, TRUST_VARIABLE = "--trust-checkpoint", "MMSEG_TOME_TRUST_CHECKPOINT"

OURS = "mmseg_tome."
"""What the names of our classes begin with in configs."""
NO_GPU = "there is no GPU"

OPTION = "--cfg-options"
FORM = 'key=value, such as model.backbone.tome_cfg=hq or work_dir="out"'
HOOKS_HAVE_NAMES = (
    ". Hooks of mmseg_tome have names, such as default_hooks.fast_inference, fast_training and "
    "merging_visualization, and switches: --launch, --dtype, --show-merging"
)


class CfgOptions(argparse.Action):
    """`key=value` as mmengine's DictAction reads it, with a line about what is none."""

    def __call__(self, parser, namespace, values, option_string=None):
        for text in values:
            key, equals, _ = text.partition("=")
            if not equals or not all(part for part in key.split(".")):
                parser.error(f"argument {option_string}: {text!r} is not {FORM}")
        from mmengine.config import DictAction

        options = dict(getattr(namespace, self.dest, None) or {})
        try:
            for text in values:
                key, _, value = text.partition("=")
                options[key] = DictAction._parse_iterable(value)
        except (ValueError, AssertionError) as error:
            parser.error(f"argument {option_string}: {error}")
        setattr(namespace, self.dest, options)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options` to a tool's command line."""
    parser.add_argument(
        OPTION,
        nargs="+",
        action=CfgOptions,
        help="settings to override in the config, as key=value pairs; a list is written "
        'key="[a,b]" or key=a,b, a nested one key="[(a,b),(c,d)]"',
    )


def read_config(args: argparse.Namespace) -> Config:
    """Read the config that `args` name and apply its common options to it.

    Raises:
        UserError: As `read_config_file`.
    """
    if args.trust_checkpoint:
        os.environ[TRUST_VARIABLE] = "1"
    cfg = read_config_file(args.config, args.cfg_options)
    _adopt_the_authors_models(cfg)
    return cfg


def read_config_file(path: str, options: dict | None = None) -> Config:
    """Read a config file, or ours of that name, and merge `--cfg-options` into it.

    Raises:
        UserError: A file is missing or damaged, an option does not fit, or there is no model.
    """
    from mmseg_tome import compat  # before anything of the mm packages

    from mmengine.config import Config  # isort: skip

    path = find_config(path)
    if Path(path).is_dir():
        raise UserError(f"config {path} is a folder")
    if not Path(path).is_file():
        raise UserError(f"config {path} does not exist{nearest_configs(path)}")
    compat.name_packages()
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise UserError(f"config {path}: {_explained(path, error)}") from None
    _merge(cfg, options or {})
    if "model" not in cfg:
        raise UserError(f"config {path} has no model: it is a part of other configs")
    if not isinstance(cfg.model, dict):
        raise UserError(f"config {path}: model must be a dict, it is {_short(cfg.model)}")
    return cfg


def choose_checkpoint(args: argparse.Namespace, cfg: Config) -> str:
    """The weights to run: those of `--checkpoint`, else the config's.

    Raises:
        UserError: There are none, or the file is missing.
    """
    checkpoint = args.checkpoint or cfg.get("load_from")
    if not checkpoint:
        raise UserError(
            "no checkpoint: name one with --checkpoint, or set load_from in the config"
            f"{with_public_weights(args.config)}"
        )
    check_checkpoint(checkpoint)
    return checkpoint


def check_checkpoint(path: str | None) -> None:
    """Raise CheckpointError unless `path` is an address or an existing file."""
    if path and "://" not in path and not Path(path).expanduser().is_file():
        raise CheckpointError(f"checkpoint {path} does not exist (from {Path.cwd()})")


def read_device(name: str) -> torch.device:
    """`"cpu"`, `"cuda"` or `"cuda:N"` as a device that torch sees.

    Raises:
        UserError: It is none of these, or there are not as many.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported; use cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device {name!r} was requested, but torch sees {count} CUDA devices")
    return device


def choose_device(name: str | None) -> str:
    """The device of a name, or a GPU where there is one.

    Raises:
        UserError: As `read_device`.
    """
    if name is not None:
        read_device(name)
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def read_size(text: str) -> tuple[int, int]:
    """`"1024x2048"` as height and width.

    Raises:
        UserError: It is not of that form, or a side is 0.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--size {text} is not HxW, such as 1024x2048")
    return int(match[1]), int(match[2])


def check_counts(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that count something, one or several, where they are below 1.

    Raises:
        UserError: Names the option.
    """
    for name in names:
        value = getattr(args, name)
        if any(v is not None and v < 1 for v in (value if isinstance(value, list) else [value])):
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")


def check_scales(scales: Iterable[float]) -> None:
    """Refuse sizes of the input over that of the image file that cannot be meant.

    Raises:
        UserError: One is none.
    """
    if any(not 0 < scale <= 16 for scale in scales):
        raise UserError("--scale must be above 0 and no more than 16")


def is_pose(cfg: Config) -> bool:
    """Whether a config is one of MMPose."""
    return cfg.get("default_scope") == "mmpose"


def no_effect(switch: str, reason: str) -> str:
    """The line that says that a switch has no effect."""
    return f"warning: {switch} has no effect: {reason}"


def is_first_process() -> bool:
    """Whether this is the first, or the only one, of the processes that a launcher started."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"))
    return next((rank for rank in ranks if rank), "0") == "0"


def say(*lines: str | None) -> None:
    """Print lines once, whatever the number of processes that a launcher started."""
    if is_first_process():
        for line in filter(None, lines):
            print(line, file=sys.stderr, flush=True)


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


def _explained(path: str, error: Exception) -> str:
    """What went wrong in a config, in a line that names the file of its chain and the line."""
    frames = list(traceback.walk_tb(error.__traceback__))
    reading = [frame for frame, _ in frames if frame.f_code.co_name == "_file2dict"]
    file = str(reading[-1].f_locals.get("filename", path)) if reading else path
    where = "" if Path(file).absolute() == Path(path).absolute() else f"in {file}: "
    if isinstance(error, FileNotFoundError):
        missing = error.filename or str(error).partition('"')[2].partition('"')[0] or file
        said = missing if "does not exist" in str(missing) else f"{missing} does not exist"
        return f"{where if missing != file else ''}_base_ {said}"
    if isinstance(error, SyntaxError):
        return f"{where}{error.msg} (line {error.lineno})"
    lines = [line for frame, line in frames if frame.f_code.co_filename == file]
    at = f" (line {lines[-1]})" if lines else ""
    if isinstance(error, ImportError) and error.__cause__ is not None:
        error = error.__cause__  # mmengine lists where it looked
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    kind = "" if isinstance(error, (TypeError, OSError)) else f"{type(error).__name__}: "
    return f"{where}{kind}{first_line(said)}{at}"


def _merge(cfg: Config, options: dict) -> None:
    for key in options:
        _check_path(cfg, key)
    try:
        cfg.merge_from_dict(options)
    except Exception as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise UserError(f"{OPTION} {_failing(cfg, options)}: {_short(said)}") from None


def _failing(cfg: Config, options: dict) -> str:
    """The option that cannot be merged, or all of them."""
    for key, value in options.items():
        try:
            type(cfg)(cfg.to_dict()).merge_from_dict({key: value})
        except Exception:
            return key
    return " ".join(options)


def _check_path(cfg: Config, key: str) -> None:
    """Refuse an option below something that the config lacks but has under a similar name.

    Raises:
        UserError: Names both.
    """
    node, parts = cfg._cfg_dict, key.split(".")
    for depth, part in enumerate(parts):
        path = ".".join(parts[: depth + 1])
        if isinstance(node, (list, tuple)):
            if not part.isdecimal():
                before = ".".join(parts[:depth])
                raise UserError(
                    f"{OPTION} {key}: {before} is a list, in which {part!r} is no index"
                )
            if int(part) >= len(node):
                hint = HOOKS_HAVE_NAMES if parts[0] == "custom_hooks" else ""
                raise UserError(
                    f"{OPTION} {key}: there is no {path}, the list has {len(node)} entries{hint}"
                )
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            return  # mmengine says what does not fit
        if part == "custom_hooks" and len(parts) > 1 and not node.get(part):
            node = []
            continue
        if part not in node:
            last = depth == len(parts) - 1
            if (depth == 0 and part in _top_level()) or (last and depth > 0):
                return  # what is new: a class refuses it if it is misspelt
            close = difflib.get_close_matches(part, node, 1, 0.75)
            if close:
                meant = ".".join([*parts[:depth], close[0]])
                raise UserError(f"{OPTION} {key}: the config has no {path}; is it {meant}?")
            return
        node = node[part]


def _top_level() -> Iterator[str]:
    from mmengine.runner import Runner

    yield from inspect.signature(Runner.__init__).parameters
    yield from ("tta_model", "tta_pipeline", "runner_type", "preprocess_cfg", "env_cfg")


def _short(value) -> str:
    """The beginning of a text, in one line."""
    text = first_line(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
