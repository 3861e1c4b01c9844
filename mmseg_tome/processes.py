"""Commands in processes of their own: a log of what they print, a time limit, one end with ours."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

PATIENCE = 60
"""Seconds that a command has to end by itself once it is asked to."""

# mmengine's "... Iter(train) [ 20/400]  lr: ...  eta: ...  loss: ..." and what of it is shown.
_PROGRESS = re.compile(r"((?:Iter|Epoch)\(\w+\) +(?:\[ *\d+\])?\[ *\d+/\d+\])")
_SHOWN = re.compile(r"\b(?:eta|loss|mIoU): \S+")


def run(
    command: Sequence[str],
    log: TextIO,
    *,
    show: Callable[[str], object] | None = None,
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    lock: int | None = None,
) -> int:
    """Run a command; it and its children end with this process, even if that is killed.

    Args:
        command: Program and arguments; `python` is this interpreter.
        log: Takes each line that is printed, to either stream, at once.
        show: Called with `progress_in` of each line that has some.
        timeout: Seconds.
        cwd: Folder to run in.
        env: `environment()` by default.
        lock: File descriptor that the command holds as long as it runs, see `files.only_one`.

    Returns:
        Its exit code; 128 plus the signal's number after a signal, as in shells.

    Raises:
        TimeoutError: It took longer, and was ended.
    """
    if command[0] == "python":  # the PATH may have another one, or none by this name
        command = [sys.executable, *command[1:]]
    process = subprocess.Popen(
        [sys.executable, "-IS", __file__, *command],
        cwd=cwd,
        env=environment() if env is None else env,
        text=True,
        errors="replace",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches this process alone, `_end` the whole session
        pass_fds=() if lock is None else (lock,),
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(timeout or 0, stop)
    with process:
        try:
            if timeout is not None:
                timer.start()
            for line in process.stdout:
                log.write(line)
                log.flush()
                if show and (progress := progress_in(line)):
                    show(progress)
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            timer.cancel()
    if late.is_set():
        raise TimeoutError(f"took more than {timeout:g} s")
    return _as_in_shells(code)


def _as_in_shells(code: int) -> int:
    return code if code >= 0 else 128 - code


def _end(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            return


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a command, and ``more``.

    A checkout's package and this interpreter (as ``python``) come first; the marks of torch's
    launcher are left out.
    """
    from mmseg_tome.files import HOME  # not above: `_guard` runs without the package

    def first(path: Path, variable: str) -> str:
        paths = [str(path), *filter(None, os.environ.get(variable, "").split(os.pathsep))]
        return os.pathsep.join(dict.fromkeys(paths))

    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    python = first(Path(sys.executable).parent, "PATH")
    return kept | {"PYTHONPATH": first(HOME, "PYTHONPATH"), "PATH": python} | more


def progress_in(line: str) -> str | None:
    """How far a training or test of mm is, if a line of its log says that."""
    found = _PROGRESS.search(line)
    return "  ".join([found[1], *_SHOWN.findall(line)]) if found else None


def last_line(output: str) -> str:
    """The last line of a command's output that says something."""
    lines = map(str.strip, reversed(output.splitlines()))
    return next(filter(None, lines), "it printed nothing")


@contextmanager
def showing_progress(what: str) -> Iterator[Callable[[str], object]]:
    """A spinner, the time and what is passed to the function, on a terminal only."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[at]}", markup=False),
    )
    disable = not console.is_terminal
    with progress.Progress(*columns, console=console, transient=True, disable=disable) as bar:
        task = bar.add_task(what, total=None, at="")
        yield lambda text: bar.update(task, at=text)


def _guard(command: list[str]) -> int:
    """Run a command in this session, and end all of it when stdin's other end is closed."""
    asked = []
    # Not SIG_IGN, which the command would inherit: the session's signals are for it alone.
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", flush=True)
        return 127
    if asked:  # before it was there
        process.terminate()
    threading.Thread(target=_end_with_caller, daemon=True).start()
    code = process.wait()
    if asked:  # what the command has left running
        os.killpg(0, signal.SIGKILL)
    return _as_in_shells(code)


def _end_with_caller() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when nobody holds the other end any more
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))
