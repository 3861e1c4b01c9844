"""Progress of long work, on a terminal and in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_of(what: str, total: int, every: int = 1) -> Iterator[Callable[[str], None]]:
    """A bar with the time that is left; where it is not seen, a line for each `every` steps."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    start, done = time.perf_counter(), 0
    with Progress(*columns, *times, TextColumn("{task.description}"), console=console,
                  transient=True, disable=not console.is_terminal) as bar:  # fmt: skip
        task = bar.add_task("", total=total)

        def advance(said: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, description=said)
            if not console.is_terminal and (done % every == 0 or done == total):
                left = (time.perf_counter() - start) / done * (total - done)
                print(f"{what} {done}/{total}, {left:.0f} s left  {said}", flush=True)

        yield advance
