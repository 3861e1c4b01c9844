"""What the rows of a sweep say together: means over checkpoints, paired differences, tables."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.files import write_text
from mmseg_tome.lab.output import markdown_table, save_figure, write_json

from . import plots, rows
from .settings import NONE, points

SCORES = {
    "mIoU": "mIoU",
    "mIoU.thin": "thin",
    "mIoU.small": "small",
    "mIoU.medium": "medium",
    "mIoU.large": "large",
    "boundary_mIoU": "boundary",
}
"""Scores that tables have a column for, and its heading."""

DEFINITIONS = {
    "scores": "percent, at the label's size: value = mean over checkpoints, std = their sample "
    "standard deviation (none with one checkpoint), values = each",
    "difference": "of every checkpoint from itself without merging, then mean and std of these",
    "mIoU.thin": "mean IoU of the classes in options.thin",
    "mIoU.small, .medium, .large": "IoU of the parts of classes in objects of an area below, "
    "between and from options.bands pixels on",
    "boundary_mIoU": "boundary IoU, strips of options.boundary_ratio times the image's diagonal",
    "agreement": "pixels that get the class that the same checkpoint gives them without merging",
    "tokens": "percent of all blocks' queries, keys/values, query-key pairs that are left",
    "times": "by batch: ms per image of backbone and head (median, quartiles), and its ratio, the "
    "time of none in the same run / this time",
}


def summarise(scored: Sequence[dict], timed: Sequence[dict]) -> list[dict]:
    """One entry for each model, scale and setting.

    Args:
        scored: Rows with scores.
        timed: Rows with times.
    """
    order = {p.setting.name: i for i, p in reversed(list(enumerate(points())))}
    found: dict[tuple, dict[str, list[dict]]] = {}
    for kind, all_of_them in (("scored", scored), ("timed", timed)):
        for row in all_of_them:
            name = (row["model"], row["scale"], row["setting"])
            found.setdefault(name, {"scored": [], "timed": []})[kind].append(row)
    baselines = {
        (row["model"], row["scale"], row["index"]): row["scores"]
        for row in scored
        if row["setting"] == NONE.name
    }
    plain_ms = {
        (row["run"], row["model"], row["scale"], row["batch"]): row["ms"]["median"]
        for row in timed
        if row["setting"] == NONE.name
    }
    names = sorted(found, key=lambda n: (n[1], n[0], order.get(n[2], len(order)), n[2]))
    return [_entry(name, **found[name], baselines=baselines, plain_ms=plain_ms) for name in names]


def _entry(
    name: tuple, scored: list[dict], timed: list[dict], baselines: dict, plain_ms: dict
) -> dict:
    model, scale, setting = name
    any_row = (scored or timed)[0]
    scored = sorted(scored, key=lambda row: row["index"])
    scores = {}
    for score in dict.fromkeys(key for row in scored for key in row["scores"]):
        having = [row for row in scored if score in row["scores"]]
        entry = _spread([row["scores"][score] for row in having])
        pairs = [
            (row, baselines.get((model, scale, row["index"]), {}).get(score)) for row in having
        ]
        differences = [row["scores"][score] - other for row, other in pairs if other is not None]
        if differences and score != "agreement":
            entry["difference"] = _spread(differences)
        scores[score] = entry
    times = {}
    for row in sorted(timed, key=lambda row: row["batch"]):
        plain = plain_ms.get((row["run"], model, scale, row["batch"]))
        ratio = plain / row["ms"]["median"] if plain else None
        kept = ("ms", "dtype", "launch", "device")
        times[str(row["batch"])] = {"ratio": ratio, **{key: row[key] for key in kept}}
    return {
        "model": model,
        "scale": scale,
        "setting": setting,
        "tome_cfg": any_row["tome_cfg"],
        "down_sample": any_row["down_sample"],
        "hw": any_row["hw"],
        "checkpoints": [row["checkpoint"] for row in scored],
        "tokens": any_row["tokens"],
        "scores": scores,
        "times": times,
    }


def _spread(values: Sequence[float]) -> dict:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"value": statistics.fmean(values), "std": std, "values": list(values)}


def problems(scored: Sequence[dict], timed: Sequence[dict]) -> list[str]:
    """Why rows do not compare, if so, a line each."""
    found = []
    for kind, compared, keys in (
        ("rows", scored, ("dtype", "images", "options", "data")),
        ("times", timed, ("dtype", "device")),
    ):
        for key in keys:
            values = sorted({json.dumps(row[key]) for row in compared})
            if len(values) > 1:
                found.append(f"{kind} differ in {key} ({', '.join(values)}): do not compare them")
    of_model, of_scale, of_setting = defaultdict(set), defaultdict(set), defaultdict(set)
    for row in scored:
        of_model[row["model"]].add(row["index"])
        of_scale[row["model"], row["scale"]].add(row["index"])
        of_setting[row["model"], row["scale"], row["setting"]].add(row["index"])
    for (model, scale), indices in sorted(of_scale.items()):
        for index in sorted(indices - of_setting.get((model, scale, NONE.name), set())):
            found.append(f"{model}, checkpoint {index}, x{scale:g} has no row without merging yet")
    short = [key for key, indices in of_setting.items() if indices != of_model[key[0]]]
    if short:
        model, scale, setting = short[0]
        found.append(
            f"{len(short)} settings lack a checkpoint, the first is {model}, x{scale:g}, {setting}"
        )
    return found


def write(out: Path) -> list[str]:
    """Gather a sweep's rows into `sweep.json`, `sweep.md`, `sweep.png` and `tradeoff.png`.

    Args:
        out: The sweep's folder.

    Returns:
        What was written, and what is to be said about it, a line each.

    Raises:
        UserError: There are no rows, or a file cannot be written.
    """
    scored, timed = rows.read_all(out)
    entries, said = summarise(scored, timed), problems(scored, timed)
    common = {key: scored[0][key] for key in ("options", "images", "dtype", "device") if scored}
    report = {"definitions": DEFINITIONS, "problems": said, **common, "results": entries}
    write_json(out / "sweep.json", report)
    write_text(out / "sweep.md", markdown(entries, said, common))
    written = ["sweep.json", "sweep.md"]
    for name, figure in (
        ("sweep.png", plots.curves(entries)),
        ("tradeoff.png", plots.tradeoff(entries)),
    ):
        if figure is not None:
            save_figure(out / name, figure, 120)
            written.append(name)
    return [*said, f"wrote {', '.join(written)} to {out}"]


def markdown(entries: Sequence[dict], said: Sequence[str], common: dict) -> str:
    """All tables, one for each model and scale, as a page."""
    lines = ["# Merging settings on trained checkpoints", ""]
    lines += [f"- **Note:** {line}" for line in said]
    if options := common.get("options"):
        small, large = options["bands"]
        lines += [
            f"- {common['images']} images, {common['dtype']} on {common['device']}; IoU in percent "
            "at the label's size.",
            "- Mean ± sample standard deviation over checkpoints; in brackets the difference from "
            "the same checkpoint without merging (mean ± deviation of the paired differences).",
            f"- thin: {', '.join(options['thin']) or 'no class'}; objects: small below {small}, "
            f"large from {large} pixels on; boundary: strips of {options['boundary_ratio']} of the "
            "diagonal.",
            "- agree: pixels with the unmerged prediction. q, kv, pairs: percent of queries, "
            "keys/values and query-key pairs left.",
        ]
    lines += _timing_lines(entries)
    tables: dict[tuple, list[dict]] = {}
    for entry in entries:
        tables.setdefault((entry["model"], entry["scale"]), []).append(entry)
    for (model, scale), table in tables.items():
        height, width = table[0]["hw"]
        number = max(len(entry["checkpoints"]) for entry in table)
        plural = "s" if number != 1 else ""
        lines += ["", f"## {model}, x{scale:g} ({width}x{height}), {number} checkpoint{plural}", ""]
        lines += _table(table)
        lines += _class_table(table)
    return "\n".join(lines) + "\n"


def _timing_lines(entries: Sequence[dict]) -> list[str]:
    how = {
        f"- ms: per image of backbone and head, {t['dtype']}, {t['launch']}, {t['device']}; "
        "(x: times faster than none)."
        for entry in entries
        for t in entry["times"].values()
    }
    return sorted(how)


def _table(table: Sequence[dict]) -> list[str]:
    scores = [score for score in SCORES if any(score in entry["scores"] for entry in table)]
    batches = sorted({batch for entry in table for batch in entry["times"]}, key=int)
    heads = ["setting", *(SCORES[score] for score in scores), "agree", "q", "kv", "pairs"]
    heads += [f"ms, batch {batch}" for batch in batches]
    lines = []
    for entry in table:
        cells = [entry["setting"], *(_score(entry, score) for score in scores)]
        agreement = entry["scores"].get("agreement")
        cells.append(f"{agreement['value']:.2f}" if agreement else "")
        cells += [f"{entry['tokens'][key]:.0f}" for key in ("queries", "keys_values", "pairs")]
        lines.append([*cells, *(_time(entry["times"].get(batch)) for batch in batches)])
    return markdown_table(heads, lines)


def _class_table(table: Sequence[dict]) -> list[str]:
    """IoU of each class for the presets: of `none`, and the others' differences from it."""
    named = {p.setting.name for p in points(["preset", "downsample"])}
    table = [entry for entry in table if entry["setting"] in named and entry["scores"]]
    keys = list(dict.fromkeys(k for e in table for k in e["scores"] if k.startswith("IoU.")))
    if not keys:
        return []
    heads = ["IoU; of the others its difference", *(key.removeprefix("IoU.") for key in keys)]
    lines = [[e["setting"], *(_class_score(e, e["scores"].get(k)) for k in keys)] for e in table]
    return ["", *markdown_table(heads, lines)]


def _class_score(entry: dict, score: dict | None) -> str:
    if score is None:
        return ""
    if entry["setting"] == NONE.name or "difference" not in score:
        return f"{score['value']:.1f}"
    return f"{score['difference']['value']:+.1f}"


def _score(entry: dict, score: str) -> str:
    found = entry["scores"].get(score)
    if found is None:
        return ""
    text = f"{found['value']:.2f}{_deviation(found)}"
    difference = found.get("difference")
    if difference is None or entry["setting"] == NONE.name:
        return text
    return f"{text} ({difference['value']:+.2f}{_deviation(difference)})"


def _deviation(spread: dict) -> str:
    return "" if spread["std"] is None else f" ± {spread['std']:.2f}"


def _time(found: dict | None) -> str:
    if found is None:
        return ""
    ratio = "" if found["ratio"] is None else f" ({found['ratio']:.2f}x)"
    return f"{found['ms']['median']:.3g}{ratio}"
