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
    args: argparse.Namespace, what: str, total: int
) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """Show how far something is on stderr, unless `--quiet` is given.

    Gives two functions: one to go on by some steps, one to print a line beside the bar.
    """
    from rich.console import Console
    from rich.progress import Progress  # no new requirement: mmengine has it

    console = Console(stderr=True)
    seen = console.is_terminal
    with Progress(console=console, transient=True, disable=args.quiet or not seen) as bar:
        task = bar.add_task(what, total=total)
        done, told = 0, time.monotonic()

        def advance(steps: int = 1) -> None:
            nonlocal done, told
            done += steps
            bar.advance(task, steps)
            if not args.quiet and not seen and time.monotonic() - told >= SECONDS:
                told = time.monotonic()
                tell(f"{what} {done}/{total}")

        def tell(line: str) -> None:
            console.out(line, highlight=False)

        yield advance, tell
