"""What `train` and `test` show: progress, results, and where everything is.

mm's own log goes to its file alone, and with it whatever the mm packages print.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta
from numbers import Real
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from rich import progress
from rich.console import Console

from mmseg_tome.cli.ending import ignore_developer_warnings

NOISE = re.compile(r"will be deprecated|prefix is not set|Failed to search registry|FileClient")
"""Warnings that are for developers of the mm packages."""
RESUMED = "resumed epoch"
"""How a runner begins to say where a training goes on."""
TABLE = "\n+--"
"""What a metric's table of classes begins with."""
SECONDS = 10
"""From one line of progress to the next where there is no terminal."""


@contextmanager
def log_to_file(out, tables: bool) -> Iterator[None]:
    """Keep mm's log from the terminal, and send there what is printed, within the context.

    Warnings that matter and errors still come on stderr, and metrics' tables, if wanted, on `out`.
    """
    ignore_developer_warnings()
    start, replaced = MMLogger.__init__, []

    def adopt(logger: MMLogger) -> None:
        for place, handler in enumerate(logger.handlers):
            if type(handler) is logging.StreamHandler:
                replaced.append((logger, handler))
                logger.handlers[place] = _Shown(out, tables, handler.level)

    def init(self, *args, **kwargs):
        start(self, *args, **kwargs)
        adopt(self)

    for logger in MMLogger._instance_dict.values():
        adopt(logger)
    MMLogger.__init__ = init  # runners make their logger themselves, and log at once
    try:
        with redirect_stdout(_ToLog()):
            yield
    finally:
        MMLogger.__init__ = start
        for logger, handler in replaced:
            shown = next(h for h in logger.handlers if isinstance(h, _Shown))
            logger.handlers[logger.handlers.index(shown)] = handler
            if isinstance(handler.stream, _ToLog):  # of a logger that was made in the context
                handler.setStream(sys.stdout)


class _Shown(logging.Handler):
    """Shows errors, warnings that matter, where a training goes on, and tables of results."""

    def __init__(self, out, tables: bool, level: int):
        super().__init__(level)
        self.out, self.tables = out, tables

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            if not NOISE.search(text):
                print(f"{record.levelname.lower()}: {text}", file=sys.stderr, flush=True)
        elif text.startswith(RESUMED) or (self.tables and text.startswith(TABLE)):
            print(text.strip(), file=self.out, flush=True)


class _ToLog(io.TextIOBase):
    """A text stream whose lines go into mm's log."""

    def __init__(self):
        self.rest = ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            MMLogger.get_current_instance().info(line)
        return len(text)


class ProgressHook(Hook):
    """A bar for what a runner does; where it is not seen, a line now and then, as mm writes it.

    Args:
        out: Stream of bar, lines and results.
        quiet: Show results alone.
    """

    priority = "LOWEST"

    def __init__(self, out, quiet: bool = False):
        console = Console(file=out)
        self.out, self.quiet, self.seen = out, quiet, console.is_terminal
        self.bar = progress.Progress(
            *("{task.description}", progress.BarColumn(), progress.MofNCompleteColumn()),
            *("left:", progress.TimeRemainingColumn(), "{task.fields[said]}"),
            console=console,
            transient=True,
            redirect_stdout=False,
            disable=quiet or not self.seen,
        )
        self.running: dict[str, tuple[progress.TaskID, int, float]] = {}
        self.told = time.monotonic()

    def before_train(self, runner) -> None:
        self._begin("train", runner.max_iters, runner.iter)

    def before_val_epoch(self, runner) -> None:
        self._begin("val", len(runner.val_dataloader))

    def before_test_epoch(self, runner) -> None:
        self._begin("test", len(runner.test_dataloader))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        losses = runner.message_hub.log_scalars.get("train/loss")
        said = f"loss: {losses.current():.4f}" if losses else ""
        self._advance("train", runner.iter + 1, said)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._advance("val", batch_idx + 1)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._advance("test", batch_idx + 1)

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._end("val", metrics or {})

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._end("test", metrics or {})

    def stop(self) -> None:
        """Take the bar away."""
        self.bar.stop()

    def _begin(self, stage: str, total: int, done: int = 0) -> None:
        self.bar.start()
        task = self.bar.add_task(stage, total=total, completed=done, said="")
        self.running[stage] = (task, done, time.monotonic())

    def _advance(self, stage: str, done: int, said: str = "") -> None:
        task, first, began = self.running[stage]
        self.bar.update(task, completed=done, said=said)
        now, total = time.monotonic(), self._total(stage)
        due = stage == "train" if done == total else now - self.told >= SECONDS
        if self.quiet or self.seen or not due:  # after the last of a test come its metrics
            return
        self.told = now
        left = timedelta(seconds=round((now - began) / max(done - first, 1) * (total - done)))
        self._print(stage, done, f"eta: {left}  {said}")

    def _end(self, stage: str, metrics: dict) -> None:
        self.bar.stop()
        known = {k: v for k, v in metrics.items() if k not in ("time", "data_time")}
        shown = [f"{k}: {v:.4g}" if isinstance(v, Real) else f"{k}: {v}" for k, v in known.items()]
        self._print(stage, self._total(stage), "  ".join(shown))
        self.bar.remove_task(self.running.pop(stage)[0])
        if self.running:
            self.bar.start()

    def _total(self, stage: str) -> int:
        return next(int(t.total) for t in self.bar.tasks if t.id == self.running[stage][0])

    def _print(self, stage: str, done: int, said: str) -> None:
        text = f"Iter({stage}) [{done}/{self._total(stage)}]  {said}"
        print(text.rstrip(), file=self.out, flush=True)


def written(runner, checkpoint: bool, others: dict[str, str | None]) -> str:
    """One line: where a runner has written its latest checkpoint, log, metrics and the others."""
    folder = Path(runner.work_dir)
    parts = [f"log and metrics in {Path(runner.log_dir).name}"]
    with suppress(OSError):
        if checkpoint:
            parts.insert(0, Path((folder / "last_checkpoint").read_text().strip()).name)
    parts += [f"{option} {place}" for option, place in others.items() if place]
    return f"written to {folder}: {', '.join(parts)}"
