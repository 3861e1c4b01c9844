"""What our tools add to a config that names one of our backbones and leaves the rest stock.

Our own configs hold all of it but the loaders' pinned memory. A config with a stock backbone gets
the guards alone: in our tools a stock model is the stock model.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

import torch
from mmengine.config import Config

from mmseg_tome.config import OURS

GUARDS = dict(
    checkpoint_guard=dict(type=f"{OURS}CheckpointGuardHook"),
    dataset_guard=dict(type=f"{OURS}DatasetGuardHook"),
)
HOOKS = dict(
    fast_inference=dict(type=f"{OURS}FastInferenceHook"),
    fast_training=dict(type=f"{OURS}FastTrainingHook"),
    auto_merging=dict(type=f"{OURS}AutoMergingHook"),
    merging_visualization=dict(type=f"{OURS}MergingVisualizationHook", enabled=False),
)
"""As `configs/_base_/default_hooks.py` has them, for models with a backbone of ours."""

DROP_INS = {
    "mmseg.EncoderDecoder": f"{OURS}EncoderDecoder",
    "mmpose.TopdownPoseEstimator": f"{OURS}TopdownPoseEstimator",
    "mmseg.IoUMetric": f"{OURS}IoUMetric",
    "mmseg.SegDataPreProcessor": f"{OURS}SegDataPreProcessor",
    "mmpose.PoseDataPreprocessor": f"{OURS}PoseDataPreprocessor",
}
"""Classes that give what the stock ones give, faster on a GPU."""

WORKERS = 12
"""Processes that load data at most: a B5 in half precision still waits for eight."""

OPTIMIZER = f"{OURS}GroupedOptimWrapperConstructor"


def complete(cfg: Config, gpu: bool, given: Collection[str] = ()) -> str | None:
    """Add the guards, and for a backbone of ours what is missing of the rest, to a config.

    Args:
        cfg: Is changed.
        gpu: Whether the run has one: without it only hooks are added, which do nothing then.
        given: Keys that the command line set, which stay.

    Returns:
        One line that says what was added, besides the guards; None if nothing.
    """
    add_hooks(cfg, GUARDS)
    if not has_our_backbone(cfg):
        return None
    added = add_hooks(cfg, HOOKS)
    if gpu:
        added += [*use_our_model(cfg), *_use_our_metrics(cfg)]
        added += [*_use_our_optimizer(cfg), *pin_loaders(cfg), *_add_workers(cfg, given)]
    return f"added to the config: {', '.join(added)}" if added else None


def has_our_backbone(cfg: Config) -> bool:
    """Whether a config's model is built on a backbone of this package."""
    backbone = cfg.model.get("backbone") or {}
    return _full_name(backbone.get("type"), cfg).startswith(OURS)


def find_hook(cfg: Config, name: str) -> dict | None:
    """The config's entry of a hook of ours, by its name in `HOOKS` or `GUARDS`."""
    kind = {**GUARDS, **HOOKS}[name]["type"]
    for hook in cfg.get("custom_hooks") or []:
        if _full_name(hook.get("type"), cfg) == kind:
            return hook
    return (cfg.get("default_hooks") or {}).get(name)


def add_hooks(cfg: Config, hooks: dict[str, dict]) -> list[str]:
    """Put hooks into a config's `default_hooks` unless they are there, or among `custom_hooks`.

    Options without a type, as `--cfg-options` may give them, are those of our hook, and `None`
    means none, which mmengine itself knows only for hooks of its own.

    Returns:
        Names of those that were added.
    """
    custom = {_full_name(hook.get("type"), cfg) for hook in cfg.get("custom_hooks") or []}
    found = dict(cfg.get("default_hooks") or {})
    added = []
    for name, hook in hooks.items():
        if hook["type"] in custom or (name in found and found[name] is None):
            found.pop(name, None)
            continue
        if "type" not in found.get(name, {}):
            added.append(f"default_hooks.{name}")
        found[name] = {**hook, **found.get(name, {})}
    cfg.default_hooks = found
    return added


def use_our_model(cfg: Config) -> list[str]:
    """Name our classes where the config names the stock ones, and no others."""
    parts = (cfg.model, cfg.model.get("data_preprocessor") or {})
    return [name for part in parts for name in _use_drop_in(part, cfg)]


def _use_our_metrics(cfg: Config) -> list[str]:
    metrics = [m for s in ("val", "test") for m in _metrics(cfg.get(f"{s}_evaluator"))]
    return list(dict.fromkeys(name for metric in metrics for name in _use_drop_in(metric, cfg)))


def _use_drop_in(part: dict, cfg: Config) -> Iterator[str]:
    drop_in = DROP_INS.get(_full_name(part.get("type"), cfg))
    if drop_in is not None:
        part["type"] = drop_in
        yield drop_in


def _metrics(evaluator) -> Iterator[dict]:
    """The metrics of an evaluator as configs write it: one, several, or in an `Evaluator`."""
    if isinstance(evaluator, dict):
        inner = evaluator.get("metrics")
        yield from [evaluator] if inner is None else _metrics(inner)
    elif isinstance(evaluator, (list, tuple)):
        for each in evaluator:
            yield from _metrics(each)


def _use_our_optimizer(cfg: Config) -> list[str]:
    wrapper = cfg.get("optim_wrapper")
    if not wrapper or "optimizer" not in wrapper or wrapper.get("constructor"):
        return []
    wrapper["constructor"] = OPTIMIZER
    return [OPTIMIZER]


def pin_loaders(cfg: Config) -> list[str]:
    pinned = []
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if loader and "collate_fn" not in loader:
            pin_loader(loader)
            pinned += [split] if "collate_fn" in loader else []
    return [f"pinned memory of data loaders ({', '.join(pinned)})"] if pinned else []


def pin_loader(dataloader_cfg: dict) -> None:
    """Make a data loader pin batches for a GPU, unless its config says how to pin or collate."""
    if "collate_fn" not in dataloader_cfg and dataloader_cfg.setdefault("pin_memory", True):
        dataloader_cfg["collate_fn"] = dict(type="mmseg_tome.pinnable_collate")


def _add_workers(cfg: Config, given: Collection[str]) -> list[str]:
    """Let more processes load data where the GPU would wait for them; 0 stays 0."""
    at_most = min(WORKERS, (os.cpu_count() or 1) // max(torch.cuda.device_count(), 1))
    names = [f"{split}_dataloader" for split in ("train", "val", "test")]
    loaders = [cfg.get(name) or {} for name in names if f"{name}.num_workers" not in given]
    few = [loader for loader in loaders if 0 < loader.get("num_workers", 0) < at_most]
    for loader in few:
        loader["num_workers"] = at_most
    return [f"{at_most} workers for each data loader"] if few else []


def _full_name(kind, cfg: Config) -> str:
    """`"scope.Name"` of a `type` as configs write it: with its scope or without, or the class."""
    if isinstance(kind, type):
        return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    kind = str(kind)
    return kind if "." in kind else f"{cfg.get('default_scope') or 'mmengine'}.{kind}"
