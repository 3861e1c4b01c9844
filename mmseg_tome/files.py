"""Files: where our own are, writing in one piece, one process a folder, progress of long work."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmseg_tome.errors import UserError

_PACKAGE = Path(__file__).resolve().parent

HOME = _PACKAGE.parent if (_PACKAGE.parent / "configs" / "_base_").is_dir() else _PACKAGE / ".mim"
"""The folder of `configs/` and `tools/`: a checkout's root, of an installed wheel `.mim`."""
CONFIGS, TOOLS = HOME / "configs", HOME / "tools"

LOCK = ".lock"
LAST_PROCESS = 2**22
"""That systems count to: a larger number in a file's name, such as a date, is no process."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""


def make_folder(path: Path) -> None:
    """Make a folder, now rather than after the first result.

    Raises:
        UserError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {path}: {error.strerror}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file, or a folder to be, that takes the place of `path` once the block is through.

    Raises:
        UserError: It cannot be written.
    """
    temporary, old = part_of(path), _old_of(path, os.getpid())
    remove_leftovers(path)
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if path.is_dir() and temporary.is_dir():  # folders cannot be replaced in one step
                path.rename(old)
            os.replace(temporary, path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for left in filter(Path.exists, (temporary, old)):
            _remove(left)


def part_of(path: Path, process: int | str | None = None) -> Path:
    """Where a process writes what is to take the place of `path`."""
    # The suffix stays: OpenCV chooses formats by it. Processes keep apart.
    return path.with_name(f".{path.stem}.{process or os.getpid()}.part{path.suffix}")


def _old_of(path: Path, process: int | str) -> Path:
    """Where a process keeps the folder `path` while another one takes its place."""
    return path.with_name(f".{path.name}.{process}.old")


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed had begun to write in the place of `path`.

    A folder that they had moved away from there comes back if there is none now.
    """
    with suppress(OSError):
        for old in filter(Path.is_dir, _left_by_the_dead(path, _old_of)):
            _remove(old) if path.exists() else old.rename(path)
    for left in _left_by_the_dead(path, part_of):
        with suppress(OSError):
            _remove(left)


def _left_by_the_dead(path: Path, name_of: Callable[[Path, str], Path]) -> Iterator[Path]:
    """Files and folders whose name, by `name_of`, has the number of a process that is no more."""
    before, after = name_of(path, "*").name.rsplit("*", 1)
    for left in path.parent.glob(f"{glob.escape(before)}*{glob.escape(after)}"):
        number = left.name.removeprefix(before).removesuffix(after)
        if number.isdecimal() and int(number) <= LAST_PROCESS and not _runs(int(number)):
            yield left


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _runs(process: int) -> bool:
    if os.name != "posix":  # signal 0 is no question there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole.

    Raises:
        UserError: It cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a system's errors into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def only_one(
    folder: str | Path, patience: float = 0.0, file: str | None = None
) -> Iterator[int | None]:
    """Hold a folder, which is made if it is not there, or a file in it against other processes.

    A folder that was made and in which nothing was written goes at the end.

    Gives the lock's file descriptor: a child that inherits it holds the lock, too, as long as it
    lives. Where the file system has no locks, nothing is held and it is None.

    Args:
        folder: Where only one process may write.
        patience: Seconds to wait for another process that holds it.
        file: Name of the only file in it that others may not write.

    Raises:
        UserError: Another process holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout  # not above: for `--help`

    path = Path(folder) / (f".{file}{LOCK}" if file else LOCK)
    lock, was_there = FileLock(path, thread_local=False), path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience)
    except Timeout:
        held = f"writes {path.with_name(file)}" if file else f"writes into {folder}"
        raise UserError(
            f"another process {held}: wait for it, or name another {'file' if file else 'folder'}"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    try:
        yield lock._context.lock_file_fd
    finally:
        if lock.is_locked:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                if not was_there:
                    path.parent.rmdir()  # fails, unless it is empty
            lock.release()


@contextmanager
def progress_of(what: str, total: int, every: int = 1) -> Iterator[Callable[[str], None]]:
    """A bar with the time that is left; where it is not seen, a line for each `every` steps."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.TextColumn(what),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left:"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}"),
    )
    start, done = time.perf_counter(), 0
    seen = console.is_terminal
    with progress.Progress(*columns, console=console, transient=True, disable=not seen) as bar:
        task = bar.add_task("", total=total)

        def advance(said: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, description=said)
            if not seen and (done % every == 0 or done == total):
                left = (time.perf_counter() - start) / done * (total - done)
                print(f"{what} {done}/{total}, {left:.0f} s left  {said}", flush=True)

        yield advance
