"""Running rows: each step's command with a log, its state kept, what is done skipped."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path

from mmseg_tome import processes
from mmseg_tome.errors import UserError
from mmseg_tome.files import only_one, replacing

from . import results
from .plan import DONE, FAILED, RUNNING, Row, Step, read_records
from .tables import Table

WAIT = 10.0
"""Seconds for the command of a run that was killed to end."""


class StepFailedError(UserError):
    """A step's command failed; the message says how, and where its log is."""


def run_row(row: Row, names: tuple[str, ...], table: Table, env: Mapping[str, str]) -> None:
    """Run the steps of a row that are named and not done; its state is kept after each.

    Raises:
        StepFailedError: One of them failed.
        UserError: Another process runs this row.
    """
    with locked(row.folder) as lock:
        row.records = read_records(row.folder)
        for step in row.steps:
            if step.name not in names:
                continue
            if row.is_done(step):
                print(f"{row.name}: {step.name} is done, skipped", flush=True)
            else:
                _run_step(row, step, table, env, lock)


def locked(folder: Path) -> AbstractContextManager[int | None]:
    """Let no other process run the row in `folder` meanwhile; gives the lock, see `only_one`."""
    return only_one(folder, WAIT)


def _run_step(row: Row, step: Step, table: Table, env: Mapping[str, str], lock: int | None) -> None:
    print(f"{row.name}: {step.name}{_why(row, step)}, log: {step.log}", flush=True)
    if row.has_changed(step):
        # Before its files go: a run that is killed in between must not believe them to be there.
        del row.records[step.name]
        row.save()
    _prepare(row, step)
    record = {
        "status": RUNNING,
        "fingerprint": step.fingerprint,
        "command": list(step.command),
        "log": str(step.log),
        "notes": [f"{need.place} holds {need.note}" for need in step.needs if need.note],
        "begun": datetime.now().isoformat(timespec="seconds"),
    }
    row.records[step.name] = record
    row.save()
    start = time.monotonic()
    try:
        code = execute(step.command, step.log, env, lock)
        record |= {"seconds": round(time.monotonic() - start, 1), "exit_code": code}
        if code:
            said = processes.last_line(step.log.read_text(errors="replace"))
            raise StepFailedError(f"ended with exit code {code}: {said}")
        record |= {"status": DONE, "results": results.read(step, table)}
    except (StepFailedError, results.NoResultsError, OSError, ValueError, KeyError) as error:
        record |= {"status": FAILED, "error": str(error)}
        raise StepFailedError(f"{row.name}: {step.name} {error} (log: {step.log})") from None
    finally:
        row.save()


def _why(row: Row, step: Step) -> str:
    if row.has_changed(step):
        return " anew, its command, config or checkpoint has changed"
    record = row.record(step)
    if not record:
        return ""
    ended = "was interrupted" if record["status"] == RUNNING else "had failed"
    return " goes on" if step.makes else f" again, it {ended}"


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
    command: tuple[str, ...], log: Path, env: Mapping[str, str], lock: int | None = None
) -> int:
    """Run a command to its end, add what it prints to a log; returns its exit code."""
    what = f"{log.parent.name}: {log.stem}"
    with log.open("a") as file, processes.showing_progress(what) as show:
        print(f"$ {shlex.join(command)}", file=file, flush=True)
        return processes.run(command, file, show=show, env=env, lock=lock)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the signals that end a job raise KeyboardInterrupt, so that its command ends with it."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def visible_gpus(device: str) -> dict[str, str]:
    """``{"CUDA_VISIBLE_DEVICES": ...}`` for "cpu" or "cuda:N"; nothing for "cuda"."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    if not number:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": given.split(",")[int(number)] if given else number}
