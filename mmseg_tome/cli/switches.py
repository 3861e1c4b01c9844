"""The switches that tools share: how kernels are launched, in which precision, what is shown.

A switch that is not given leaves the config as it is; one that cannot do anything says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from mmengine.config import Config

from mmseg_tome.cli.additions import HOOKS, add_hooks, find_hook, has_our_backbone
from mmseg_tome.config import NO_GPU, no_effect
from mmseg_tome.errors import UserError


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    return torch.cuda.is_available()


def half(dtype: str | None) -> str | None:
    """The data type as our hook and `accelerate` take it: None keeps that of the weights."""
    return None if dtype == "float32" else dtype


def use_launch(cfg: Config, launch: str | None, gpu: bool) -> Iterator[str]:
    """Let tests, validations and training of a config launch kernels that way; yields warnings.

    A stock model is launched by graphs only if that is asked for.
    """
    if launch == "graphs" and not gpu:
        yield no_effect("--launch graphs", NO_GPU)
    elif gpu and launch is not None and (launch == "graphs" or has_our_backbone(cfg)):
        for name in ("fast_inference", "fast_training"):
            _set(cfg, name, launch=launch)


def use_dtype(cfg: Config, dtype: str | None) -> None:
    """Let a config be tested in that precision."""
    if dtype is not None and (dtype != "float32" or has_our_backbone(cfg)):
        _set(cfg, "fast_inference", dtype=half(dtype))


def use_autocast(cfg: Config, dtype: str | None, amp: bool, gpu: bool) -> Iterator[str]:
    """Let a config be trained in that precision; yields warnings.

    Args:
        cfg: Is changed.
        dtype: Of `--dtype`: "float16" with a dynamic loss scale, "bfloat16", which needs none, or
            "float32" for no autocast; None leaves it to the config and to `amp`.
        amp: Of `--amp`, as in the mm tools: the autocast of the config, of float16 if it has none.
        gpu: Whether there is one; CPUs train in bfloat16.

    Raises:
        UserError: The two contradict each other, or the config's optimizer wrapper is another one.
    """
    if amp and dtype not in (None, "float16"):
        raise UserError(f"--amp is --dtype float16: leave it out with --dtype {dtype}")
    if not amp and dtype is None:
        return
    wrapper = cfg.optim_wrapper
    kind = wrapper.get("type", "OptimWrapper")
    switch = "--amp" if dtype is None else f"--dtype {dtype}"
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise UserError(f"{switch} works with OptimWrapper, the config's optim_wrapper is {kind}")
    if dtype == "float32":
        wrapper["type"] = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)
        return
    wrapper["type"] = "AmpOptimWrapper"
    if dtype == "bfloat16":  # it has the range of float32
        wrapper.update(dtype=dtype, loss_scale=dict(enabled=False))
    else:
        wrapper.setdefault("loss_scale", "dynamic")
    if dtype == "float16":
        wrapper["dtype"] = dtype
        if not gpu:
            yield f"warning: {switch} is bfloat16 here: {NO_GPU}"


def use_show_merging(cfg: Config, interval: int | None) -> str:
    """Let a run of a config save pictures of what merges.

    Args:
        cfg: Is changed.
        interval: Batches from one that is shown to the next; None leaves it to the config.

    Returns:
        A line that says where to, or why there are none.
    """
    if reason := merges_nothing(cfg):
        return no_effect("--show-merging", reason)
    options = {} if interval is None else dict(interval=interval)
    _set(cfg, "merging_visualization", enabled=True, **options)
    folder = (cfg.get("visualizer") or {}).get("save_dir") or cfg.work_dir
    return f"--show-merging: pictures merging_*.png below {folder}, in vis_data/vis_image"


def merges_nothing(cfg: Config) -> str | None:
    """Why a config's model merges no tokens; None if it does."""
    if not has_our_backbone(cfg):
        return "the config's backbone is none of mmseg_tome's"
    if cfg.model.backbone.get("tome_cfg") is None:
        return "the config merges nothing, see tome_cfg"
    return None


def _set(cfg: Config, name: str, **options) -> None:
    """Give options to a hook of ours, which is added if the config has none."""
    if (cfg.get("default_hooks") or {}).get(name, {}) is None:
        del cfg.default_hooks[name]  # what the command line asks for goes before
    add_hooks(cfg, {name: HOOKS[name]})
    hook = find_hook(cfg, name)
    hook.update(options)
    if "launch" in options:
        hook.pop("graphs", None)  # what `launch` was before
    if "enabled" in hook:
        hook["enabled"] = True
