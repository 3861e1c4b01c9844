"""One process at a time in a folder of results."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmseg_tome.errors import UserError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None

LOCK = ".lock"


@contextmanager
def only_one(folder: str | Path, patience: float = 0.0) -> Iterator[int | None]:
    """Hold a folder, which is made if it is not there, also for a process that will be killed.

    Gives the lock's file descriptor: a child that inherits it holds the folder, too, as long as it
    lives. Where the system or the file system has no locks, nothing is held and it is None.

    Args:
        folder: Where only one process may write.
        patience: Seconds to wait for another process that holds it.

    Raises:
        UserError: Another process holds it, or it cannot be written.
    """
    path = Path(folder) / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _hold(path, time.monotonic() + patience) if fcntl else None
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    try:
        yield lock
    finally:
        if lock is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(lock)


def _hold(path: Path, until: float) -> int | None:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
            raise UserError(
                f"another process writes into {path.parent}: wait for it, or name another folder"
            ) from None
        except OSError:  # a file system without locks
            os.close(lock)
            return None
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(lock).st_ino:
                return lock
        os.close(lock)  # the one who held it has removed it meanwhile
