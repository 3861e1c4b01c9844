"""A search from images to results: what `tools/tune.py` does when its command line is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config

from mmseg_tome.errors import UserError
from mmseg_tome.files import progress_of
from mmseg_tome.lab.output import write_json
from mmseg_tome.lab.sweep.images import Images, Samples
from mmseg_tome.lab.sweep.network import Network, build_network, device_name, time_settings
from mmseg_tome.lab.sweep.rows import fingerprint
from mmseg_tome.lab.sweep.settings import NONE

from . import probes, results
from .choose import Goal, choose, front
from .images import AgreementLoss, loss_on, split
from .probes import StageTimes
from .search import Known, Search, Tried, open_study, spread
from .space import Plan, Space, setting

FORMAT = 1
"""Goes up when the meaning of what a journal keeps changes."""


@dataclass(frozen=True)
class Options:
    """How a search runs: options of `tools/tune.py`, which says what they mean, and two more."""

    out: Path
    device: torch.device
    dtype: str
    goal: Goal
    trials: int = 80
    batch: int = 1
    time_batch: int = 1
    rounds: int = 15
    held_out: float = 0.33  # share of the images that the search does not see
    probe_images: int = 6  # on which each stage is probed
    seed: int = 0
    launch: str = "auto"


def tune(
    cfg: Config, config: Path, checkpoint: str, images: Samples, source: str, options: Options
) -> str:
    """Search, choose, check and write; returns what to tell the user.

    Args:
        cfg: The user's config.
        config: Its file, which the tuned one inherits.
        checkpoint: File of the weights.
        images: What it is tuned on, with labels or without.
        source: Where the images are from, with all that they depend on.
        options: How it runs.

    Raises:
        UserError: The images are too few, the checkpoint does not fit, or nothing reaches the goal.
    """
    if len(images) < 2:
        raise UserError("one image is too few: some are searched on, others are checked on")
    network = Network(cfg, checkpoint, options.device, options.dtype)
    space = Space.of(network.model.backbone, images.hw)
    name = _name(cfg, checkpoint, images, source, space, options)
    study = open_study(options.out, name, options.seed)
    some, others = split(len(images), options.held_out)
    loss = loss_on(images, some, network, options.batch)
    few = images.subset(spread(some, options.probe_images))
    known = Known(study)
    times = StageTimes(
        build_network(cfg, checkpoint),
        space,
        images.hw,
        options.time_batch,
        options.device,
        options.dtype,
        known,
        launch=options.launch,
    )
    with progress_of("stages timed", len(space.ways)) as advance:
        space = probes.pruned(space, times, advance)
    number = len(probes.worthwhile(space, times))
    with progress_of("probes", number, every=10) as advance:
        quick_loss = AgreementLoss(network, few, options.batch)
        probes.probe(space, times, quick_loss, known, advance)
    search = Search(study, space, times, loss, known)
    first = search.first_plans(options.goal.speedup, options.trials // 3)
    with progress_of("trials", search.missing(first, options.trials), every=10) as advance:
        search.run(first, options.trials, advance)

    tried = search.tried()
    names = {plan: preset for preset, plan in reversed(space.presets().items())}
    names.pop(space.plain, None)
    merging = [t for t in tried if t.plan != space.plain]
    measure = _measure(build_network(cfg, checkpoint), images.hw, options)
    chosen, measured = choose(options.goal, merging, list(names), measure)
    checked = {}
    if chosen is not None:
        checking = loss_on(images, others, network, options.batch)
        checked = {plan: checking(plan) for plan in [chosen.plan, *names]}
    where = (
        f"{checkpoint} at {images.hw[1]}x{images.hw[0]}, batch {options.time_batch}, "
        f"{options.dtype}, {device_name(options.device)}{_how(options)}"
    )
    content = dict(
        measured_with=where,
        images=dict(source=source, searched=len(some), held_out=len(others)),
        loss=loss.unit,
        goal=dict(speedup=options.goal.speedup, loss=options.goal.loss),
        chosen=chosen and _entry(chosen, measured, names, checked),
        presets=[_entry(t, measured, names, checked) for t in tried if t.plan in names],
        front=[results.as_json(t, measured, names) for t in front(tried)],
        probes=probes.table(space, times, known),
        trials=[results.as_json(t, measured, names) for t in tried],
    )
    write_json(options.out / results.JSON, content)
    results.write_figure(options.out, tried, measured, names, chosen, loss.unit, where)
    if chosen is None:
        raise UserError(_unreached(options, tried, measured))
    said = results.sentence(chosen, measured[chosen.plan], checked[chosen.plan], loss.unit)
    written = results.write_config(
        options.out, config, chosen.plan, f"Written by tools/tune.py for {where}.\n{said}"
    )
    return f"{said}\n{_lines(content)}\n{written}"


def _measure(model, hw: tuple[int, int], options: Options) -> Callable[[list[Plan]], list[float]]:
    """Measures true speed-ups of plans, in turns with no merging."""

    def measure(plans: list[Plan]) -> list[float]:
        settings = [NONE, *map(setting, plans)]
        total = len(settings) * (1 + options.rounds)
        with progress_of("timings", total, every=total // 4) as advance:
            found = time_settings(
                model, settings, hw, options.time_batch, options.device, options.dtype,
                options.rounds, lambda: advance(""), options.launch,
            )  # fmt: skip
        none, *others = (times["ms"]["median"] for times in found)
        return [none / ms for ms in others]

    return measure


def _entry(t: Tried, measured, names, checked) -> dict:
    held_out = {k: round(v, 4) for k, v in checked.get(t.plan, {}).items()}
    return results.as_json(t, measured, names) | {"held_out": held_out or None}


def _lines(content: dict) -> str:
    """Chosen and presets beside each other."""
    rows = [("chosen", content["chosen"]), *((e["name"], e) for e in content["presets"])]
    return "\n".join(
        f"  {name:<12} {entry['measured_speedup']:.2f}x  loss {entry['loss']:.3f}, "
        f"held out {entry['held_out']['loss']:.3f}"
        for name, entry in rows
    )


def _unreached(options: Options, tried: list[Tried], measured: dict[Plan, float]) -> str:
    found = f"{options.out / results.FIGURE} shows all that were tried"
    if options.goal.speedup is None:
        return (
            f"nothing of a loss up to {options.goal.loss:g} is faster than no merging here; "
            f"{found}. No config was written"
        )
    fastest = max(measured.values())
    return (
        f"{options.goal.speedup:g}x is out of reach here: the fastest measured is {fastest:.2f}x "
        f"(ask for a little less, and its config comes at once); {found}. No config "
        "was written"
    )


def _how(options: Options) -> str:
    """That times are of eager launches, where they would else be of CUDA graphs."""
    eager = options.launch == "eager" and options.device.type == "cuda"
    return ", launched eagerly" if eager else ""


def _name(
    cfg: Config, checkpoint: str, images: Samples, source: str, space: Space, options: Options
) -> str:
    return fingerprint(
        cfg.model,
        checkpoint,
        NONE,
        format=FORMAT,
        space=space,
        source=source,
        images=len(images),
        labels=isinstance(images, Images),
        hw=images.hw,
        device=device_name(options.device),
        **{name: getattr(options, name) for name in ("dtype", "time_batch", "held_out")},
        **(dict(launch="eager") if _how(options) else {}),
    )
