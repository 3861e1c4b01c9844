"""What is known of each row: a small JSON file that survives interruptions.

``{"train": record, "test": record, "speed": record}``, where a record holds the step's status
(``running``, ``done`` or ``failed``), the fingerprint of what ran, and its results.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

from mmseg_tome.errors import UserError
from mmseg_tome.files import only_one, replacing

RUNNING, DONE, FAILED = "running", "done", "failed"
FILE = "state.json"
WAIT = 10.0
"""Seconds for the command of a run that was killed to end."""

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


def locked(folder: Path) -> AbstractContextManager[int | None]:
    """Let no other process run the row in ``folder`` meanwhile; gives the lock, see `only_one`.

    Raises:
        UserError: Another one does, or the folder cannot be made.
    """
    return only_one(folder, WAIT)
