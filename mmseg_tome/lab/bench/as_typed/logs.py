"""Reading what a run of an mm tool leaves behind: its text log and its scalars.

mmengine (both its stacks alike) writes the means of the last `window_size` iterations into the text
log every `interval` iterations: in tests nowhere else, in training into `vis_data/scalars.json`
too, in full precision. `options` makes both the same number, so that each line is of iterations of
its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

WINDOW = 10
"""Iterations a line, in runs that are long enough."""
LEAST_WINDOWS = 2
"""Lines that are needed after the warm-up."""

_LINE = re.compile(
    r"(?:Iter|Epoch)\((?:train|test)\)\s*(?:\[\s*\d+\])?\s*\[\s*(\d+)/\s*\d+\]\s+(.*eta: .*)"
)
_VALUE = re.compile(r"([\w./@]+): (-?[\d.]+(?:e[+-]?\d+)?|nan)(?=\s|$)")
_RECORD = re.compile(r" - mmengine - (?:INFO|WARNING) - (.*)")
_SAID = re.compile(r"\brun(?:s|ning)?\b|CUDA graph|merging|preset|parameter group|effect")
_PRINTED = re.compile(r"(warning: |added to the config: ).*")


@dataclass(frozen=True)
class Window:
    """Means over some iterations, up to and including ``iteration``: seconds, MiB."""

    iteration: int
    time: float
    data_time: float
    memory: float | None = None


def options(window: int) -> list[str]:
    """Settings that make a tool log what is read here; they change nothing else."""
    return [
        f"default_hooks.logger.interval={window}",
        f"log_processor.window_size={window}",
        "log_processor.num_digits=6",
    ]


def window_of(iterations: int) -> int:
    """Iterations of a line: `WINDOW`, in short runs a quarter."""
    return max(1, min(WINDOW, iterations // 4))


def read_windows(text: str) -> list[Window]:
    """The lines of a text log that iterations left."""
    windows = []
    for line in text.splitlines():
        if found := _LINE.search(line):
            values = dict(_VALUE.findall(found[2]))
            if {"time", "data_time"} <= set(values):
                memory = float(values["memory"]) if "memory" in values else None
                seconds = float(values["time"]), float(values["data_time"])
                windows.append(Window(int(found[1]), *seconds, memory))
    return windows


def steady(windows: list[Window], warmup: int) -> list[Window]:
    """Those that began after the warm-up.

    Raises:
        ValueError: There are too few.
    """
    begins = [0, *(window.iteration for window in windows)]
    kept = [w for begin, w in zip(begins, windows, strict=False) if begin >= warmup]
    if len(kept) < LEAST_WINDOWS:
        raise ValueError(
            f"{len(kept)} windows of iterations after a warm-up of {warmup}: the run is too short"
        )
    return kept


def read_log(work_dir: Path) -> str:
    """The text log of the last run in a work directory; empty if there is none."""
    found = sorted(work_dir.glob("*/*.log"))
    return found[-1].read_text(errors="replace") if found else ""


def read_losses(work_dir: Path) -> list[float]:
    """The total loss of every logged iteration of the last training in a work directory."""
    found = sorted(work_dir.glob("*/vis_data/scalars.json"))
    lines = found[-1].read_text().splitlines() if found else []
    return [scalars["loss"] for scalars in map(json.loads, lines) if "loss" in scalars]


def read_metrics(work_dir: Path) -> dict[str, float]:
    """The metrics of the last test in a work directory."""
    found = sorted(work_dir.glob("*/*.json"))
    values = json.loads(found[-1].read_text()) if found else {}
    times = ("time", "data_time")
    return {k: v for k, v in values.items() if isinstance(v, int | float) and k not in times}


def said(output: str) -> list[str]:
    """Lines in which our hooks and tools say what runs how, each once, without the time of day."""
    found = []
    for line in output.splitlines():
        record = _RECORD.search(line)
        if record and _SAID.search(record[1]) and not record[1].startswith("Exp name"):
            found.append(record[1].strip())
        elif _PRINTED.match(line):
            found.append(line.strip())
    return list(dict.fromkeys(found))
