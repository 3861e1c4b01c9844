"""The figures of a sweep: what each setting costs, and whether what it saves is worth it."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg_tome.lab.output import COLOURS, new_figure

from .settings import NONE, Point, points

STYLES = (
    *(("-", "o"), ("--", "s"), (":", "^"), ("-.", "D")),
    *(("-", "v"), ("--", "P"), (":", "X"), ("-.", "<")),
)
"""Of the lines of a sweep, which has no more of them."""
MARKERS = {
    "none": "o",
    "hq": "^",
    "fast": "v",
    "n2d": "s",
    "quality": "D",
    "speed": "d",
    "hq-turbo": "<",
    "fast-turbo": ">",
    "hq-prop": "P",
    "fast-prop": "*",
    "hq-turbo-prop": "p",
    "fast-turbo-prop": "h",
    "downsample": "X",
}
AXES = {
    "ratio": "ratio of tokens removed",
    "stride": "matching cell (tokens)",
    "stage": "the only stage that merges",
    "target": "what merges",
    "reuse": "blocks that share slot maps",
    "local": "ratio of tokens removed",
    "local-stage": "the only stage that merges",
}
"""Sweeps that have a panel, and what their horizontal axis says."""


def curves(entries: Sequence[dict]):
    """The difference in mIoU from no merging: a panel for each sweep, a row for each scale.

    Returns:
        A matplotlib figure, or None where no sweep has scores.
    """
    known = _by_name(entry for entry in entries if _difference(entry))
    models = _models(known)
    placed: dict[str, list[Point]] = {}
    for point in points(list(AXES)):
        if any(name[2] == point.setting.name for name in known):
            placed.setdefault(point.sweep, []).append(point)
    # The presets alone are a point or two of every sweep: no curve.
    others = {"none", *MARKERS}
    sweeps = [s for s, ps in placed.items() if {p.setting.name for p in ps} - others]
    scales = sorted({scale for _, scale, _ in known})
    if not sweeps:
        return None
    figure, axes = _panels(len(scales), len(sweeps), 3.7, 3.2)
    for row, scale in zip(axes, scales, strict=True):
        for axis, sweep in zip(row, sweeps, strict=True):
            _draw_sweep(axis, placed[sweep], known, models, scale)
            axis.set_xlabel(AXES[sweep])
            axis.set_title(f"{sweep}, x{scale:g}", fontsize=9)
        row[0].set_ylabel("mIoU, difference from none")
    for axis in axes[-1]:  # below the panels: within, they would hide curves
        axis.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=7,
            handlelength=3.5, columnspacing=1.2,
        )  # fmt: skip
    _legend_of_models(figure, models)
    return figure


def _draw_sweep(axis, placed: list[Point], known: dict, models: list[str], scale: float) -> None:
    lines = list(dict.fromkeys(point.line for point in placed))
    values = list(dict.fromkeys(point.value for point in placed))
    numeric = all(isinstance(value, float) for value in values)
    axis.axhline(0, color="#999999", linewidth=0.8)
    for m, model in enumerate(models):
        for line, (style, marker) in zip(lines, STYLES, strict=False):
            found = [
                (point.value if numeric else values.index(point.value), _difference(entry))
                for point in placed
                if point.line == line and (entry := known.get((model, scale, point.setting.name)))
            ]
            if found:
                x, differences = zip(*found, strict=True)
                axis.errorbar(
                    x, [each["value"] for each in differences],
                    [each["std"] or 0 for each in differences], color=COLOURS[m % len(COLOURS)],
                    linestyle=style, marker=marker, markersize=4, linewidth=1.3, elinewidth=0.8,
                    capsize=2,
                )  # fmt: skip
    for line, (style, marker) in zip(lines, STYLES, strict=False):
        axis.plot([], [], color="#444444", linestyle=style, marker=marker, markersize=4, label=line)
    if not numeric:
        axis.set_xticks(range(len(values)), values)
        axis.margins(x=0.1)


def tradeoff(entries: Sequence[dict]):
    """mIoU against time: a panel for each scale and batch; a line joins the unmerged models.

    Returns:
        A matplotlib figure, or None where no setting has both.
    """
    shown = [e for e in entries if e["setting"] in MARKERS and "mIoU" in e["scores"] and e["times"]]
    if not shown:
        return None
    known = _by_name(shown)
    models = _models(known)
    scales = sorted({entry["scale"] for entry in shown})
    batches = sorted({batch for entry in shown for batch in entry["times"]}, key=int)
    figure, axes = _panels(len(scales), len(batches), 5.4, 4.2)
    for row, scale in zip(axes, scales, strict=True):
        for axis, batch in zip(row, batches, strict=True):
            _draw_tradeoff(axis, known, models, scale, batch)
        row[0].set_ylabel("mIoU (%)")
    axes[0, 0].legend(frameon=False, fontsize=7)
    hardware = sorted({t["device"] for e in shown for t in e["times"].values()})
    _legend_of_models(figure, models)
    figure.suptitle(
        f"{', '.join(hardware)}\nMerging pays above the line that joins the unmerged models",
        fontsize=9,
    )
    return figure


def _draw_tradeoff(axis, known: dict, models: list[str], scale: float, batch: str) -> None:
    import matplotlib.ticker

    plain = []
    drawn = {}
    for m, model in enumerate(models):
        for name, marker in MARKERS.items():
            entry = known.get((model, scale, name))
            if entry is None or batch not in entry["times"]:
                continue
            x, score = entry["times"][batch]["ms"]["median"], entry["scores"]["mIoU"]
            if name == NONE.name:
                plain.append((x, score["value"]))
            axis.errorbar(
                x, score["value"], score["std"] or 0, color=COLOURS[m % len(COLOURS)],
                marker=marker, markersize=8 if name == NONE.name else 6.5,
                markerfacecolor=_fill(name), elinewidth=0.8, capsize=2,
            )  # fmt: skip
            drawn[name] = marker
    if len(plain) > 1:
        axis.plot(*zip(*sorted(plain), strict=True), color="#999999", linewidth=1, zorder=0)
    for name, marker in drawn.items():
        axis.plot(
            [], [], color="#444444", linestyle="", marker=marker, label=name,
            markerfacecolor=_fill(name),
        )  # fmt: skip
    axis.set_xscale("log")
    for which in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        which(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axis.tick_params(axis="x", which="both", labelsize=7)
    axis.set_xlabel("ms per image (log)")
    axis.set_title(f"x{scale:g}, batch {batch}", fontsize=9)
    axis.grid(alpha=0.25, linewidth=0.5)


def _fill(name: str) -> str | None:
    """Markers of presets are hollow."""
    return None if name in (NONE.name, "downsample") else "white"


def _panels(rows: int, columns: int, width: float, height: float):
    return new_figure((max(width * columns, 5), height * rows + 0.7), rows, columns)


def _legend_of_models(figure, models: list[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=COLOURS[m % len(COLOURS)], label=name) for m, name in enumerate(models)]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=len(models), frameon=False, fontsize=9
    )


def _by_name(entries) -> dict[tuple, dict]:
    return {(e["model"], e["scale"], e["setting"]): e for e in entries}


def _models(known: dict) -> list[str]:
    return list(dict.fromkeys(model for model, _, _ in known))


def _difference(entry: dict) -> dict | None:
    return entry["scores"].get("mIoU", {}).get("difference")
