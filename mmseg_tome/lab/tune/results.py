"""What a search leaves behind: a config, the front as JSON and as a figure, and a sentence."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmseg_tome.files import write_text
from mmseg_tome.lab.output import COLOURS, new_figure, save_figure

from .choose import front
from .search import Tried
from .space import Plan, describe, tome_cfg

CONFIG, JSON, FIGURE = "tuned.py", "pareto.json", "pareto.png"


def write_config(out: Path, base: Path, plan: Plan, comment: str) -> Path:
    """Write a config to `out` that inherits the user's, `base`, and merges by a plan."""
    path = out / CONFIG
    relative = Path(os.path.relpath(base.resolve(), out.resolve())).as_posix()
    wrapped = (part for line in comment.splitlines() for part in textwrap.wrap(line, 98))
    lines = [
        *(f"# {line}" for line in wrapped),
        f"_base_ = {json.dumps(relative)}",
        "tome_cfg = [",
        *(f"    {_as_call(stage)}," for stage in tome_cfg(plan)),
        "]",
        'model = dict(backbone=dict(type="mmseg_tome.MixVisionTransformer", tome_cfg=tome_cfg))',
    ]
    write_text(path, "\n".join(lines) + "\n")
    return path


def as_json(tried: Tried, measured: Mapping[Plan, float], names: Mapping[Plan, str]) -> dict:
    """A tried plan as plain values."""
    return dict(
        name=names.get(tried.plan),
        **{key: round(value, 4) for key, value in tried.scores.items()},
        predicted_speedup=round(tried.speedup, 4),
        measured_speedup=round(measured[tried.plan], 4) if tried.plan in measured else None,
        tome_cfg=tome_cfg(tried.plan),
    )


def write_figure(
    out: Path,
    tried: Sequence[Tried],
    measured: Mapping[Plan, float],
    names: Mapping[Plan, str],
    chosen: Tried | None,
    unit: str,
    title: str,
) -> None:
    """Draw loss against speed-up: every trial, the front, the presets and what was chosen.

    Plans of `names` are drawn at their true speed-ups, with a line from where they were predicted.
    """
    figure, ((axis,),) = new_figure((7.5, 5))
    best = front(tried)
    axis.plot(
        [t.speedup for t in tried], [t.loss for t in tried], ".", color="#bbbbbb", zorder=1,
        label="trials, predicted speed-up",
    )  # fmt: skip
    axis.step(
        [t.speedup for t in best], [t.loss for t in best], "-", where="pre", color=COLOURS[0],
        marker=".", zorder=2, label="front of the trials",
    )  # fmt: skip
    placed = []
    for t in (t for t in tried if t.plan in names):
        x = measured.get(t.plan, t.speedup)
        axis.plot([t.speedup, x], [t.loss, t.loss], "-", color=COLOURS[1], linewidth=0.8)
        axis.plot(x, t.loss, "s", color=COLOURS[1], markersize=6, zorder=3)
        name = names[t.plan]
        left, below = name.endswith("-prop"), "turbo" in name  # four that are near each other
        axis.annotate(
            name, (x, t.loss), (-5 if left else 5, -11 if below else 5), fontsize=8,
            textcoords="offset points", horizontalalignment="right" if left else "left",
        )  # fmt: skip
        placed.append(t)
    if placed:
        axis.plot([], [], "s", color=COLOURS[1], label="presets, measured")
    if chosen is not None:
        x = measured[chosen.plan]
        axis.plot([chosen.speedup, x], [chosen.loss] * 2, "-", color=COLOURS[2], linewidth=0.8)
        axis.plot(
            x, chosen.loss, "*", color=COLOURS[2], markersize=16, zorder=4, label="chosen, measured"
        )
        placed.append(chosen)
    # Plans that ruin the predictions would press all that matters to one line.
    shown = [*best, *placed]
    top, low = max(t.loss for t in shown), min(t.loss for t in shown)
    room = 0.08 * (top - low or 1)
    axis.set_ylim(top + room, low - room)  # the best is at the top
    axis.set_xlabel("speed-up over no merging")
    axis.set_ylabel(unit)
    axis.set_title(title, fontsize=9)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    save_figure(out / FIGURE, figure, 150)


def sentence(chosen: Tried, measured: float, checked: dict[str, float], unit: str) -> str:
    """What was chosen, what it saves and costs."""
    return (
        f"Chosen: {describe(chosen.plan)}. It runs {measured:.2f}x as fast as without merging "
        f"(predicted {chosen.speedup:.2f}x) and costs, in {unit}, {chosen.loss:.2f} on the images "
        f"searched on and {checked['loss']:.2f} on those held out."
    )


def _as_call(value) -> str:
    """A value as configs write it: `dict(q=dict(mode="n2d", stride=(2, 2)))`."""
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={_as_call(v)}' for key, v in value.items())})"
    return json.dumps(value) if isinstance(value, str) else repr(value)
