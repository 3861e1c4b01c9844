"""What is known of each row: a small JSON file that survives interruptions.

``{"train": record, "test": record, "speed": record}``, where a record holds the step's status
(``running``, ``done`` or ``failed``), the fingerprint of what ran, and its results.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmseg_tome.engine.errors import UserError
from mmseg_tome.inference.results import replacing

RUNNING, DONE, FAILED = "running", "done", "failed"
FILE = "state.json"
LOCK = ".lock"

Records = dict[str, dict]
"""A record for each step that was ever begun."""


def read(folder: Path) -> Records:
    """The records of the row in ``folder``; none if it was never begun.

    Raises:
        UserError: The file there is no such state.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        records = json.loads(path.read_text())
        known = all({"status", "fingerprint"} <= set(record) for record in records.values())
    except (OSError, ValueError, AttributeError, TypeError):
        known = False
    if not known:
        raise UserError(f"cannot read the row's state in {path}: mend the file or remove it")
    return records


def write(folder: Path, records: Records) -> None:
    """Replace the row's state as a whole.

    Raises:
        UserError: The file cannot be written.
    """
    with replacing(folder / FILE) as temporary:
        temporary.write_text(json.dumps(records, indent=2) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let no other process run the row in ``folder`` meanwhile.

    Raises:
        UserError: Another one does, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is running the row in {folder}") from None
        yield
