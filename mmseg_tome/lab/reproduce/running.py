"""Running rows: each step's command with a log, its state kept, what is done skipped."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mmseg_tome.errors import UserError
from mmseg_tome.files import replacing

from . import guard, results, state
from .plan import Row, Step
from .tables import Table

# mmengine's "... Iter(train) [ 20/400]  lr: ...  eta: ...  loss: ..." and what of it is shown.
_PROGRESS = re.compile(r"((?:Iter|Epoch)\(\w+\) +(?:\[ *\d+\])?\[ *\d+/\d+\])")
_SHOWN = re.compile(r"\b(?:eta|loss|mIoU): \S+")


class StepFailedError(UserError):
    """A step's command failed; the message says how, and where its log is."""


def run_row(row: Row, names: tuple[str, ...], table: Table, env: Mapping[str, str]) -> None:
    """Run the steps of a row that are named and not done; its state is kept after each.

    Raises:
        StepFailedError: One of them failed.
        UserError: Another process runs this row.
    """
    with state.locked(row.folder) as lock:
        row.records = state.read(row.folder)
        for step in row.steps:
            if step.name not in names:
                continue
            if row.is_done(step):
                print(f"{row.name}: {step.name} is done, skipped", flush=True)
            else:
                _run_step(row, step, table, env, lock)


def _run_step(row: Row, step: Step, table: Table, env: Mapping[str, str], lock: int | None) -> None:
    print(f"{row.name}: {step.name}{_why(row, step)}, log: {step.log}", flush=True)
    if row.has_changed(step):
        # Before its files go: a run that is killed in between must not believe them to be there.
        del row.records[step.name]
        state.write(row.folder, row.records)
    _prepare(row, step)
    record = {
        "status": state.RUNNING,
        "fingerprint": step.fingerprint,
        "command": list(step.command),
        "log": str(step.log),
        "notes": [f"{need.place} holds {need.note}" for need in step.needs if need.note],
        "begun": datetime.now().isoformat(timespec="seconds"),
    }
    row.records[step.name] = record
    state.write(row.folder, row.records)
    start = time.monotonic()
    try:
        with _progress(f"{row.name}: {step.name}") as show:
            code = execute(step.command, step.log, env, show, lock)
        record |= {"seconds": round(time.monotonic() - start, 1), "exit_code": code}
        if code:
            raise StepFailedError(f"ended with exit code {code}: {last_line(step.log)}")
        record |= {"status": state.DONE, "results": results.read(step, table)}
    except (StepFailedError, results.NoResultsError, OSError, ValueError, KeyError) as error:
        record |= {"status": state.FAILED, "error": str(error)}
        raise StepFailedError(f"{row.name}: {step.name} {error} (log: {step.log})") from None
    finally:
        state.write(row.folder, row.records)


def _why(row: Row, step: Step) -> str:
    if row.has_changed(step):
        return " anew, its command, config or checkpoint has changed"
    record = row.record(step)
    if not record:
        return ""
    return " goes on" if step.makes else f" again, it {_ENDED[record['status']]}"


_ENDED = {state.RUNNING: "was interrupted", state.FAILED: "had failed"}


def _prepare(row: Row, step: Step) -> None:
    """Empty the step's folder, unless a training goes on in it."""
    if step.folder.exists() and not (step.makes and row.record(step)):
        if step.makes:  # days of work, perhaps
            _put_aside(step.folder)
        else:
            shutil.rmtree(step.folder)
    if step.written:
        path, cfg = step.written
        with replacing(path) as temporary:
            cfg.dump(temporary)


def _put_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    folder.rename(aside)
    print(f"  the earlier one is kept in {aside}", flush=True)


def execute(
    command: tuple[str, ...],
    log: Path,
    env: Mapping[str, str],
    show: Callable[[str], object],
    lock: int | None = None,
) -> int:
    """Run a command to its end and return its exit code; if interrupted or killed, end it, too.

    Args:
        command: "python" at its start is the interpreter that runs this.
        log: File that its output is added to.
        env: Its environment.
        show: Called with each line that tells how far it is.
        lock: Of the row, which stays locked until the command is over.
    """
    arguments = [sys.executable, *command[1:]] if command[0] == "python" else list(command)
    with log.open("a") as file:
        print(f"$ {shlex.join(command)}", file=file, flush=True)
        # Of a session of its own, so that an interruption ends its children, too, and once.
        with subprocess.Popen(
            [sys.executable, guard.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=env,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        ) as process:
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if found := _PROGRESS.search(line):
                        show("  ".join([found[1], *_SHOWN.findall(line)]))
                return process.wait()
            except BaseException:
                _end(process)
                raise


def _end(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(guard.PATIENCE)
            return


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it printed nothing")


@contextmanager
def _progress(description: str) -> Iterator[Callable[[str], object]]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    columns += (TextColumn("{task.fields[at]}"),)
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(description, total=None, at="")
        yield lambda text: progress.update(task, at=text)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the signals that end a job raise KeyboardInterrupt, so that its command ends with it."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def environment(device: str) -> dict[str, str]:
    """The environment of commands that run on ``device``: this interpreter, and that GPU alone."""
    # The scripts for several processes start `python`.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, **visible_gpus(device)}


def visible_gpus(device: str) -> dict[str, str]:
    """``{"CUDA_VISIBLE_DEVICES": ...}`` for "cpu" or "cuda:N"; nothing for "cuda"."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    if not number:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": given.split(",")[int(number)] if given else number}
