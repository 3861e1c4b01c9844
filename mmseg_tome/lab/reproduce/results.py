"""What the standard tools left behind, read into a step's results."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mmseg_tome.errors import UserError

from .plan import Step
from .tables import Metric, Table

BASELINE_PEER = "peer"


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
