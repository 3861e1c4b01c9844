"""Running commands as a user does, each in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmseg_tome.files import TOOLS

from . import logs, sampling
from .variants import Run, Workspace

TAIL = 4000
"""Characters of a failed run's output that reports keep."""


@dataclass
class Budget:
    """Seconds that all runs together may take, from its making on; None for no limit."""

    seconds: float | None = None

    def __post_init__(self):
        self.started = time.monotonic()

    @property
    def left(self) -> float | None:
        """Seconds left, at least 0; None for no limit."""
        if self.seconds is None:
            return None
        return max(self.seconds - (time.monotonic() - self.started), 0.0)


@dataclass(frozen=True)
class Outcome:
    """What a run left: its work directory, what it printed, the GPU's memory, the error if any."""

    work_dir: Path
    output: str
    gpu_mib: float | None
    seconds: float
    error: str | None


Execute = Callable[[list[str], Path, float | None], tuple[int, str]]
"""Runs a command in a folder for at most so many seconds: exit code and output."""


def environment() -> dict[str, str]:
    """This checkout first, this interpreter as `python`, without the marks of a launcher."""
    paths = [str(TOOLS.parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    own = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    own["PORT"] = os.environ.get("PORT") or _free_port()  # of dist_train.sh
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    return {k: v for k, v in os.environ.items() if k not in launcher} | own


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def execute(command: list[str], folder: Path, timeout: float | None) -> tuple[int, str]:
    """Run a command and all that it starts; `TimeoutError` if it takes longer."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except BaseException as stop:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        if isinstance(stop, subprocess.TimeoutExpired):
            raise TimeoutError(output) from None
        raise
    return process.returncode, output


def run(
    workspace: Workspace, what: Run, command: list[str], budget: Budget, start: Execute = execute
) -> Outcome:
    """Run one command of the workspace; a failure is in the outcome."""
    work_dir = workspace.root / "work_dirs" / what.name
    if budget.left == 0:
        return Outcome(work_dir, "", None, 0.0, "not run: the time limit was reached")
    began = time.monotonic()
    error = None
    with sampling.peak_memory() as peak:
        try:
            code, output = start(command, workspace.root, budget.left)
        except TimeoutError as stopped:
            code, output, error = 0, str(stopped), "stopped: the time limit was reached"
    if code:
        lines = [line for line in output.splitlines() if line.strip()]
        error = f"exit code {code}: {lines[-1].strip() if lines else ''}"
    return Outcome(work_dir, output, peak.mib, time.monotonic() - began, error)


def measure(row: dict, outcome: Outcome, warmup: int) -> None:
    """Fill a row with what a run's log says."""
    text = logs.read_log(outcome.work_dir)
    row["said"] = logs.said(f"{text}\n{outcome.output}")
    row["wall_s"] = outcome.seconds
    row["gpu_mib"] = outcome.gpu_mib
    row["error"] = outcome.error
    windows = logs.read_windows(text)
    row["windows"] = [vars(window) for window in windows]
    try:
        kept = logs.steady(windows, warmup)
    except ValueError as error:
        row["error"] = row["error"] or str(error)
        kept = []
    if kept:
        row["seconds"] = sum(w.time for w in kept) / len(kept)
        row["data_share"] = sum(w.data_time for w in kept) / sum(w.time for w in kept)
        # Of all windows: mm resets the peak with each, and graphs are captured in the warm-up.
        row["allocated_mib"] = max((w.memory for w in windows if w.memory), default=None)
    if not row["case"].startswith(("train", "losses")):
        row["metrics"] = logs.read_metrics(outcome.work_dir)
    if row["error"]:
        row["output_tail"] = outcome.output[-TAIL:]
