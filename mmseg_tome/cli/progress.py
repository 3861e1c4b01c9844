"""Progress of the commands that work through inputs: a bar, or a line now and then."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 10
"""From one line to the next where there is no terminal."""


@contextmanager
def progress_bar(
    args: argparse.Namespace, what: str, total: int | None, unit: str | None = None
) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """Show how far something is on stderr, unless `--quiet` is given.

    Args:
        args: The command line.
        what: Is done.
        total: How often; None where that is not known.
        unit: Of the speed to show, such as FPS; None shows the time that is left.

    Gives two functions: one to go on by some steps, one to print a line beside the bar.
    """
    from rich import progress  # no new requirement: mmengine has it
    from rich.console import Console

    console = Console(stderr=True)
    seen = console.is_terminal
    columns = progress.Progress.get_default_columns()
    if unit:
        columns = (*columns, progress.TextColumn("{task.completed} {task.fields[speed]}"))
    hidden = args.quiet or not seen
    with progress.Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=total, speed="")
        done, told, before = 0, time.monotonic(), 0

        def advance(steps: int = 1) -> None:
            nonlocal done, told, before
            done += steps
            now = time.monotonic()
            speed = f"{(done - before) / max(now - told, 1e-6):.1f} {unit}" if unit else ""
            bar.update(task, completed=done, speed=speed)
            if now - told >= SECONDS:
                told, before = now, done
                if not args.quiet and not seen:
                    tell(f"{what} {done}{f'/{total}' if total else ''} {speed}".rstrip())

        def tell(line: str) -> None:
            console.out(line, highlight=False)

        yield advance, tell
