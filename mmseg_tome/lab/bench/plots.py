"""Plots of what a run found: latencies, and where the time goes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from mmseg_tome.files import replacing

from .parts import OTHER, PARTS, REST
from .results import grouped, title


def write_latencies(path: Path, env: dict, rows: list[dict]) -> None:
    """Plot the median latency of every variant, one panel per case, with its quartiles."""
    panels = [r for r in grouped(rows) if any(row["latency_ms"] for row in r)]
    if panels:
        figure = _figure(env, panels, _draw_latencies, width=6.4, height=3.6)
        _save(path, figure)


def write_breakdown(path: Path, env: dict, rows: list[dict]) -> None:
    """Plot the time of each part as a stacked bar per row, its floor as a thin bar below it."""
    panels = [[r for r in case if r.get("breakdown")] for case in grouped(rows)]
    panels = [panel for panel in panels if panel]
    if panels:
        height = 1.1 + 0.55 * max(map(len, panels))
        figure = _figure(env, panels, _draw_breakdown, width=9, height=height)
        drawn = {part: patch for axis in figure.axes for part, patch in _legend(axis).items()}
        parts = [part for part in (*PARTS, REST) if part in drawn]
        narrow = dict(columnspacing=1.2, handlelength=1.2, handletextpad=0.5)
        style = dict(loc="outside lower center", ncols=len(parts), frameon=False, fontsize=8)
        figure.legend([drawn[part] for part in parts], parts, **style, **narrow)
        _save(path, figure)


def write_presets(path: Path, env: dict, rows: list[dict]) -> bool:
    """Plot what merging gains over none from case to case, where two cases at least have both.

    Of ours by graphs where they were timed. Returns whether there was anything to plot.
    """
    times: dict[str, dict[str, float]] = {}
    for case in grouped(rows):
        for pipeline in ("ours", "ours, graphs"):
            found = {
                row["variant"]: row["latency_ms"]["median"]
                for row in case
                if row["pipeline"] == pipeline and row["latency_ms"]
            }
            if len(found) > 1 and "none" in found:
                times[title(case)] = found
    if len(times) > 1:
        draw_presets(path, _hardware(env), times)
    return len(times) > 1


def draw_presets(path: Path, heading: str, times: dict[str, dict[str, float]]) -> None:
    """Plot how many times faster than none each preset is, a line a preset.

    Args:
        path: The PNG file.
        heading: Hardware and versions.
        times: Milliseconds of each preset, none among them, of each case.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.7 * len(times) + 2.6, 4), layout="constrained")
    axis = figure.subplots()
    presets = dict.fromkeys(p for found in times.values() for p in found if p != "none")
    axis.axhspan(0, 1, color="#f2dede", zorder=0)
    for preset, colour in zip(presets, itertools.cycle(_LINES)):
        at = [i for i, found in enumerate(times.values()) if preset in found]
        found = [times[case] for case in times if preset in times[case]]
        gains = [f["none"] / f[preset] for f in found]
        axis.plot(at, gains, "o-", color=colour, label=preset, linewidth=1.8, markersize=4)
    every = [f["none"] / ms for f in times.values() for ms in f.values()]
    axis.set_ylim(min(every) - 0.08, max(every) + 0.08)
    axis.text(0.01, 0.99, "slower than no merging", transform=axis.get_yaxis_transform(),
              va="top", fontsize=8, color="#a94442")  # fmt: skip
    labels = [f"{case}\nnone: {found['none']:.3g} ms" for case, found in times.items()]
    axis.set_xticks(range(len(times)), labels, fontsize=8)
    axis.set_ylabel("times as fast as no merging")
    axis.set_title(heading, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(path, figure)


_LINES = ("#0072b2", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#666666")


def _hardware(env: dict) -> str:
    hardware = env["gpu"] or f"{env['cpu']}, {env['threads']} threads"
    return f"{hardware}, torch {env['versions'].get('torch', '')}"


def _figure(env: dict, panels: list, draw: Callable, width: float, height: float):
    """A grid of panels (inches each) under a title with the hardware; ``draw(axis, panel)``."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(width * columns, height * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, panel in zip(axes, panels, strict=False):
        draw(axis, panel)
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(_hardware(env), fontsize=10)
    return figure


def _save(path: Path, figure) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


_COLOURS = {
    "ours": "#0072b2",
    "ours, graphs": "#56b4e9",
    "peer": "#bbbbbb",
    "fused peer": "#888888",
    "compiled stock": "#444444",
}
_LEGEND = {
    "ours": "ours (x: faster than the peer)",
    "ours, graphs": "ours, CUDA graphs",
    "peer": "peer: stock mmseg + tomesd",
    "fused peer": "peer, attention fused",
    "compiled stock": "the same, compiled, CUDA graphs",
}
_CENTRED = {"ha": "center", "va": "bottom"}


def _draw_latencies(axis, rows: list[dict]) -> None:
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    pipelines = [p for p in _COLOURS if any(row["pipeline"] == p for row in rows)]
    width = 0.8 / len(pipelines)
    size = 8 if len(pipelines) < 3 else 6.5  # points
    for i, pipeline in enumerate(pipelines):
        done = [r for r in rows if r["pipeline"] == pipeline and r["latency_ms"]]
        middle = [r["latency_ms"]["median"] for r in done]
        x = [variants.index(r["variant"]) + (i - (len(pipelines) - 1) / 2) * width for r in done]
        low = [m - r["latency_ms"]["q1"] for m, r in zip(middle, done, strict=True)]
        high = [r["latency_ms"]["q3"] - m for m, r in zip(middle, done, strict=True)]
        axis.bar(x, middle, width, label=_LEGEND[pipeline], color=_COLOURS[pipeline])
        axis.errorbar(x, middle, [low, high], fmt="none", ecolor="#333333", capsize=2)
        for left, row in zip(x, done, strict=True):
            above = (left, row["latency_ms"]["q3"])
            axis.annotate(
                _label(row), above, (0, 3), textcoords="offset points", fontsize=size, **_CENTRED
            )
    axis.set_xticks(range(len(variants)), variants)
    if max(map(len, variants)) > 12:  # names of config files
        axis.tick_params(axis="x", rotation=15, labelsize=7)
    what = "training step" if rows[0]["mode"] == "training" else "latency"
    axis.set_ylabel(f"{what} (ms), median and quartiles")
    axis.set_title(title(rows), fontsize=9)
    axis.margins(y=0.18 if len(pipelines) < 3 else 0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, ncols=2 if len(pipelines) > 2 else 1)


def _label(row: dict) -> str:
    speed = f"\n{row['vs_peer']:.2f}x" if row["vs_peer"] else ""
    return f"{row['latency_ms']['median']:.4g}{speed}"


_PART_COLOURS = {
    "attention": "#0072b2",
    "match": "#b2182b",
    "merge": "#e8743b",
    "unmerge": "#f6b48f",
    "reduction": "#7fb8de",
    "ffn": "#009e73",
    "norms": "#f0d442",
    "embedding": "#8d6cab",
    "head": "#c9a3c7",
    OTHER: "#999999",
    REST: "white",
}
_DARK = ("attention", "match", "ffn", "embedding")
_HATCHED = {"edgecolor": "#999999", "hatch": "////", "linewidth": 0.5}
_BAR, _FLOOR_BAR = 0.5, 0.14
"""Thickness of the bars, where a row is 1."""


def _draw_breakdown(axis, rows: list[dict]) -> None:
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    places = [y + 0.3 * variants.index(row["variant"]) for y, row in enumerate(rows)]
    longest = max(_total(row, "ms") for row in rows)
    for y, row in zip(places, rows, strict=True):
        below = y + (_BAR + _FLOOR_BAR) / 2
        for key, place, height in (("ms", y, _BAR), ("floor_ms", below, _FLOOR_BAR)):
            _stack(axis, place, height, row, key, longest)
        total, floor = _total(row, "ms"), _total(row, "floor_ms")
        text = {"textcoords": "offset points", "xytext": (4, 0), "va": "center"}
        axis.annotate(f"{total:.4g} ms", (total, y), fontsize=8, weight="bold", **text)
        axis.annotate(f"floor {floor:.3g} ms", (floor, below + 0.05), fontsize=6.5, **text)
    axis.set_yticks(places, [f"{r['variant']}, {r['pipeline']}" for r in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.12 * longest)
    axis.set_xlabel(
        "ms of one eager pass, shares of it; thin bars: floor of the operators that ran"
    )
    axis.set_title(title(rows), fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def _stack(axis, y: float, height: float, row: dict, key: str, longest: float) -> None:
    left = 0.0
    for part in (*PARTS, REST):
        width = max(row["breakdown"].get(part, {}).get(key, 0.0), 0.0)
        if not width:
            continue
        style = _HATCHED if part == REST else {}
        axis.barh(y, width, height, left, label=part, color=_PART_COLOURS[part], **style)
        if key == "ms" and width > 0.035 * longest:
            share = f"{width / _total(row, key):.0%}"
            colour = "white" if part in _DARK else "black"
            centred = {"ha": "center", "va": "center", "fontsize": 7}
            axis.annotate(share, (left + width / 2, y), color=colour, **centred)
        left += width


def _total(row: dict, key: str) -> float:
    return sum(part[key] for part in row["breakdown"].values())


def _legend(axis) -> dict:
    handles, labels = axis.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))
