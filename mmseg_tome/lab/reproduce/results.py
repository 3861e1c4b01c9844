"""Results: what the standard tools left, and the table of it with the paper's numbers beside."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from mmseg_tome.errors import UserError
from mmseg_tome.files import write_text
from mmseg_tome.lab.output import write_json

from .plan import DONE, FAILED, STATE, Row, Settings, Step
from .tables import Metric, Table

BASELINE_PEER = "peer"
NOT_RUN, NOTHING = "not run", "-"
PAPER = (
    "paper: the authors' repository (Kienzle et al., MIPR 2024), which does not say on which GPU "
    "and in which precision speed was measured.",
    f"{NOT_RUN}: not measured yet. {NOTHING}: the paper gives none, or there was none to measure, "
    "such as GPU memory on a CPU.",
)
INFERENCE = (
    "measured accuracy: tools/test.py with one unmerged checkpoint in all rows.",
    "speed: times the speed without merging, network alone (no data loading, no post-processing), "
    "each row beside `none` in one run of tools/benchmark.py: random weights and input, by default "
    "one window of 1024x1024 as the sliding window gives it.",
)
TRAINING = (
    "measured accuracy: tools/train.py from ImageNet weights, then tools/test.py on its last "
    "checkpoint, not on the one that validated best.",
    "speed: times the training speed without merging: forward, loss, backward and update (no data "
    "loading), each row beside `none` in one run of tools/benchmark.py --train. One GPU, the whole "
    "batch.",
    "GB, paper: GPU memory in training. GiB, trained: the peak of allocated tensors that the "
    "training's own log gives (of several GPUs, the first one's). GiB of a step: of "
    "tools/benchmark.py, beyond weights, optimizer state and input.",
)
PIPELINES = {
    "ours": "ours: mmseg_tome, whose attention is fused also without merging, so that merging has "
    "less to gain than in the paper. Its ratio is not the paper's quantity.",
    "ours, graphs": "ours, graphs: the same by CUDA graphs.",
    "peer": "peer: the stock MMSegmentation model with tomesd merging and attention matrices "
    "materialised, as the authors run it. Its ratio is what the paper's compares with; on another "
    "GPU, or at another precision or batch, it differs.",
    "fused peer": "fused peer: the peer with fused attention.",
}
OVER_PEER = "ours / peer none: times the speed of the unmerged peer, in the same run."


class NoResultsError(UserError):
    """A tool ended well, but did not leave what it should have; the message says what."""


def read(step: Step, table: Table) -> dict:
    """The results of a step whose command ended well.

    Raises:
        NoResultsError: It left nothing that can be read.
    """
    if step.name == "train":
        return _of_training(step)
    if step.name == "test":
        return _of_test(step, table.metrics)
    return _of_speed(step)


def _of_training(step: Step) -> dict:
    if not step.makes.is_file():
        raise NoResultsError(f"left no {step.makes}")
    peaks = [entry["memory"] for entry in _logged(step.folder) if "memory" in entry]
    return {"checkpoint": str(step.makes), "memory_gib": max(peaks) / 1024 if peaks else None}


def _logged(work_dir: Path) -> list[dict]:
    """All that the trainings in a work dir logged; on a GPU, the peak memory in MiB is in it."""
    lines = [
        line
        for path in sorted(work_dir.glob("*/vis_data/scalars.json"))
        for line in path.read_text().splitlines()
    ]
    return [json.loads(line) for line in lines if line.endswith("}")]  # a killed one ends midway


def _of_test(step: Step, metrics: tuple[Metric, ...]) -> dict:
    files = sorted(step.folder.glob("*/*.json"))
    if len(files) != 1:
        raise NoResultsError(f"left {len(files)} files of metrics in {step.folder}, not 1")
    found = json.loads(files[0].read_text())
    numbers = {k: v for k, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}
    if lacking := [metric.key for metric in metrics if metric.key not in numbers]:
        raise NoResultsError(f"left no number {lacking[0]} in {files[0]}")
    return {"metrics": numbers}


def _of_speed(step: Step) -> dict:
    """For each pipeline of the benchmark its times, and how they compare."""
    report = json.loads((step.folder / "benchmark.json").read_text())
    rows = report["results"]
    config = step.command[step.command.index("--configs") + 1]
    own = [r for r in rows if r["variant"] == Path(config).stem]
    if not own:
        raise NoResultsError(f"measured nothing of {config}")
    unmerged_peer = [r for r in rows if r["pipeline"] == BASELINE_PEER and r["baseline"]]
    return {
        "case": {key: own[0][key] for key in ("size", "batch", "dtype", "device", "part")},
        "pipelines": {r["pipeline"]: _pipeline(r, *unmerged_peer) for r in own},
        "environment": report["environment"],
    }


def _pipeline(row: dict, unmerged_peer: dict | None = None) -> dict:
    times, baseline = row["latency_ms"], (unmerged_peer or {}).get("latency_ms")
    return {
        "ms": times and times["median"],
        "speed": row["vs_none"],
        "speed_over_unmerged_peer": times and baseline and baseline["median"] / times["median"],
        "memory_mib": row["memory_mib"],
        "error": row["error"],
    }


def columns(table: Table, rows: list[Row]) -> dict[str, Callable[[Row], str]]:
    """Headings and what each says of a row."""
    found: dict[str, Callable[[Row], str]] = {"row": lambda row: row.name}
    for i, metric in enumerate(table.metrics):
        found[f"{metric.label}, paper"] = lambda row, i=i: f"{row.published.accuracy[i]:.2f}"
        found[f"{metric.label}, measured"] = lambda row, metric=metric: _cell(
            row, "test", lambda r: r["metrics"][metric.key] * metric.scale, "{:.2f}"
        )
    found["speed, paper"] = lambda row: _number(row.published.speed, "{:.2f}x")
    for name in pipelines(rows):
        found[f"speed, {name}"] = _of_pipeline(name, "speed", "{:.2f}x")
    if "peer" in pipelines(rows):
        found["ours / peer none"] = _of_pipeline("ours", "speed_over_unmerged_peer", "{:.2f}x")
    for name in pipelines(rows):
        found[f"ms, {name}"] = _of_pipeline(name, "ms", "{:.1f}")
    if table.trains:
        found["GB, paper"] = lambda row: _number(row.published.memory, "{:.1f}")
        found["GiB, trained"] = lambda row: _cell(row, "train", lambda r: r["memory_gib"], "{:.1f}")
        for name in pipelines(rows):
            found[f"GiB of a step, {name}"] = _of_pipeline(name, "memory_mib", "{:.1f}", 1 / 1024)
    return found


def pipelines(rows: list[Row]) -> list[str]:
    """The pipelines of the benchmark that were measured in any row, ours first."""
    return list(dict.fromkeys(["ours", *(name for row in rows for name in _speeds(row))]))


def _speeds(row: Row) -> dict[str, dict]:
    """What was measured of each pipeline."""
    return (_results(row, "speed") or {"pipelines": {}})["pipelines"]


def _of_pipeline(name: str, key: str, form: str, scale: float = 1.0) -> Callable[[Row], str]:
    def value(results: dict) -> float | None:
        found = results["pipelines"].get(name, {}).get(key)
        return None if found is None else found * scale

    return lambda row: _cell(row, "speed", value, form)


def _cell(row: Row, step: str, value: Callable[[dict], float | None], form: str) -> str:
    """A measured number; where there is none, why."""
    results = _results(row, step)
    if results is not None:
        return _number(value(results), form)
    failed = (_record(row, step) or {}).get("status") == FAILED
    return FAILED if failed else NOT_RUN


def _record(row: Row, name: str) -> dict | None:
    return next((row.record(step) for step in row.steps if step.name == name), None)


def _results(row: Row, name: str) -> dict | None:
    record = _record(row, name)
    return record["results"] if record and record["status"] == DONE else None


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def markdown(table: Table, settings: Settings, rows: list[Row]) -> str:
    """The whole report."""
    lines = [f"# {table.title}", "", *grid(table, rows), ""]
    lines += [f"- {line}" for line in [*legend(table, rows), *remarks(table, settings, rows)]]
    return "\n".join(lines) + "\n"


def grid(table: Table, rows: list[Row]) -> list[str]:
    """The lines of the table, padded so that they can be read as they are."""
    found = columns(table, rows)
    cells = [list(found), *([cell(row) for cell in found.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(values: Iterable[str]) -> str:
        padded = (value.rjust(width) for value, width in zip(values, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 1) + ":" for width in widths)
    return [line(cells[0]), f"|{rule}|", *map(line, cells[1:])]


def legend(table: Table, rows: list[Row]) -> list[str]:
    """What the columns mean, and which of them compare."""
    shown = pipelines(rows)
    lines = [*PAPER, *(TRAINING if table.trains else INFERENCE)]
    lines += [text for name, text in PIPELINES.items() if name in shown]
    return [*lines, OVER_PEER] if "peer" in shown else lines


def remarks(table: Table, settings: Settings, rows: list[Row]) -> list[str]:
    """What was measured where, and how it differs from the paper."""
    lines = [_speed_line(row) for row in rows]
    if settings.cfg_options:
        options = shlex.join(settings.cfg_options)
        lines.append(f"**not the paper's settings**: --cfg-options {options}")
    if settings.checkpoint:
        lines.append(f"weights: {settings.checkpoint}")
    for row in rows:
        for step in row.steps:
            if row.has_changed(step):
                lines.append(
                    f"{row.name}: {step.name} was measured with another command, config or "
                    f"checkpoint, so it is not shown; it is in {row.folder / STATE}"
                )
            record = row.record(step) or {}
            if record.get("status") == FAILED:
                lines.append(f"{row.name}: {step.name} {record['error']} (log: {step.log})")
            lines += [f"**not the paper's data**: {note}" for note in record.get("notes", ())]
        for name, found in _speeds(row).items():
            lines += [f"{row.name}: speed, {name}: {found['error']}"] if found["error"] else []
    return list(dict.fromkeys(filter(None, lines)))  # each once


def _speed_line(row: Row) -> str:
    """What the speed was measured on."""
    results = _results(row, "speed")
    if results is None:
        return ""
    case, env = results["case"], results["environment"]
    machine = env["gpu"] or f"{env['cpu']}, {env['threads']} threads"
    versions = f"torch {env['versions']['torch']}"
    return (
        f"speed measured at {case['size']}, batch {case['batch']}, {case['dtype']}, on "
        f"{case['device']}: {machine}, {versions}"
    )


def write_table(table: Table, settings: Settings, rows: list[Row]) -> tuple[Path, Path]:
    """Write ``table.md`` and ``table.json`` to the work dir; returns their paths.

    Raises:
        UserError: They cannot be written.
    """
    paths = settings.work_dir / "table.md", settings.work_dir / "table.json"
    content = {
        "table": table.name,
        "title": table.title,
        "legend": legend(table, rows),
        "remarks": remarks(table, settings, rows),
        "rows": [_entry(table, row) for row in rows],
    }
    write_text(paths[0], markdown(table, settings, rows))
    write_json(paths[1], content, 2)
    return paths


def _entry(table: Table, row: Row) -> dict:
    """A row for programs: the paper's numbers, and each step's status and results."""
    labels = [metric.label for metric in table.metrics]
    steps = {}
    for step in row.steps:
        record = row.record(step) or {"status": NOT_RUN}
        steps[step.name] = {key: record.get(key) for key in ("status", "command", "results")}
    return {
        "row": row.name,
        "paper": {
            "accuracy": dict(zip(labels, row.published.accuracy, strict=True)),
            "speed": row.published.speed,
            "memory_gb": row.published.memory,
        },
        "steps": steps,
    }
