"""Running the commands: each as a user does, within a time limit, its GPU memory watched."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmseg_tome import processes

from . import logs
from .variants import Run, Workspace

TAIL = 4000
"""Characters of a failed run's output that reports keep."""
INTERVAL_MS = 500
"""Between two looks at the memory."""


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


def execute(command: list[str], folder: Path, timeout: float | None) -> tuple[int, str]:
    """Run a command and all that it starts; `TimeoutError` with its output if it takes longer."""
    output = io.StringIO()
    env = processes.environment(PORT=os.environ.get("PORT") or _free_port())  # of dist_train.sh
    try:
        with processes.showing_progress("running") as show:
            code = processes.run(command, output, show=show, timeout=timeout, cwd=folder, env=env)
    except TimeoutError:
        raise TimeoutError(output.getvalue()) from None
    return code, output.getvalue()


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run(
    workspace: Workspace, what: Run, command: list[str], budget: Budget, start: Execute = execute
) -> Outcome:
    """Run one command of the workspace; a failure is in the outcome."""
    work_dir = workspace.root / "work_dirs" / what.name
    if budget.left == 0:
        return Outcome(work_dir, "", None, 0.0, "not run: the time limit was reached")
    began = time.monotonic()
    error = None
    with peak_memory() as peak:
        try:
            code, output = start(command, workspace.root, budget.left)
        except TimeoutError as stopped:
            code, output, error = 0, str(stopped), "stopped: the time limit was reached"
    if code:
        error = f"exit code {code}: {processes.last_line(output)}"
    return Outcome(work_dir, output, peak.mib, time.monotonic() - began, error)


def fill(row: dict, outcome: Outcome, warmup: int) -> None:
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
    else:
        row["seconds"] = sum(w.time for w in kept) / len(kept)
        row["data_share"] = sum(w.data_time for w in kept) / sum(w.time for w in kept)
        # Of all windows: mm resets the peak with each, and graphs are captured in the warm-up.
        row["allocated_mib"] = max((w.memory for w in windows if w.memory), default=None)
    if not row["case"].startswith(("train", "losses")):
        row["metrics"] = logs.read_metrics(outcome.work_dir)
    if row["error"]:
        row["output_tail"] = outcome.output[-TAIL:]


def query(fields: str) -> list[list[str]]:
    """`nvidia-smi`'s answer, a list of fields for each GPU; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(_question(fields), text=True, capture_output=True)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[field.strip() for field in line.split(",")] for line in lines if line.strip()]


def _question(fields: str) -> list[str]:
    return ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]


class Peak:
    """What was seen: ``mib`` is the largest use of one GPU, None without a GPU."""

    mib: float | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Watch the memory in use on the GPUs while the body runs; the peak is there afterwards.

    That is more than torch's peak of allocated memory in mm's log: it holds cached blocks, the
    private pools of CUDA graphs, and what libraries and the driver take.
    """
    peak = Peak()
    if not query("memory.used"):
        yield peak
        return
    command = [*_question("memory.used"), f"--loop-ms={INTERVAL_MS}"]
    with tempfile.TemporaryFile("w+") as seen:
        watcher = subprocess.Popen(command, stdout=seen)
        try:
            yield peak
        finally:
            watcher.terminate()
            watcher.wait()
            seen.seek(0)
            values = [float(line) for line in seen if line.strip().replace(".", "").isdigit()]
            peak.mib = max(values, default=None)
