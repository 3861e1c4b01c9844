"""What `tools/reproduce.py` does once its command line is read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmseg_tome.errors import UserError
from mmseg_tome.files import only_one
from mmseg_tome.processes import environment

from . import plan, requirements, results, running
from .plan import Row, Settings, Step
from .requirements import THERE, Requirement
from .tables import TABLES, Table

ReadOptions = Callable[[Sequence[str]], argparse.Namespace]
"""Reads a command line of `tools/benchmark.py`."""


def reproduce(args: argparse.Namespace, read_benchmark: ReadOptions) -> int:
    """Do what the command line says; returns the exit code."""
    table = TABLES[args.table]
    settings = settings_of(args, table)
    rows = plan.make(table, settings)
    chosen = choose_rows(args.rows, rows)
    check_benchmark_options(settings, rows[0], read_benchmark)
    steps = ("train", "test", "speed") if args.speed else ("train", "test")
    if args.dry_run:
        print(preview(table, settings, chosen, steps))
        return 0
    check(chosen, steps)
    with running.interruptible():
        return run(table, settings, rows, chosen, steps, args.keep_going)


def choose_device(args: argparse.Namespace) -> str:
    """The device to run on.

    Raises:
        UserError: There is no such device, or not as many as processes.
    """
    count = torch.cuda.device_count()
    device = args.device or ("cuda" if count else "cpu")
    kind, colon, number = device.partition(":")
    if device not in ("cpu", "cuda") and not (kind == "cuda" and colon and number.isdigit()):
        raise UserError(f"--device {device}: use cpu, cuda or cuda:N")
    if args.gpus < 1:
        raise UserError(f"--gpus must be at least 1, not {args.gpus}")
    if kind == "cuda":
        if int(number or 0) >= count:
            raise UserError(f"--device {device} was requested, but torch sees {count} GPUs")
        if args.gpus > (1 if number else count):
            where = f"--device {device}" if number else f"this machine's {count} GPUs"
            raise UserError(f"--gpus {args.gpus} is too many for {where}")
    return device


def settings_of(args: argparse.Namespace, table: Table) -> Settings:
    """The options that make the plan, with paths that do not depend on the current folder.

    Raises:
        UserError: As `choose_device`, or the work dir is none.
    """
    checkpoint = args.checkpoint
    if checkpoint and "://" not in checkpoint:
        checkpoint = str(Path(checkpoint).expanduser().absolute())
    work_dir = args.work_dir or Path("work_dirs") / "reproduce" / table.name
    if work_dir.exists() and not work_dir.is_dir():
        raise UserError(f"--work-dir {work_dir} is a file, not a folder")
    return Settings(
        work_dir=work_dir.expanduser().absolute(),
        data_root=args.data_root and args.data_root.expanduser().absolute(),
        checkpoint=checkpoint,
        device=choose_device(args),
        gpus=args.gpus,
        peer=args.peer,
        trust_checkpoint=args.trust_checkpoint,
        cfg_options=tuple(args.cfg_options),
        benchmark_options=tuple(args.benchmark_options),
    )


def choose_rows(names: Sequence[str] | None, rows: list[Row]) -> list[Row]:
    """The rows that are named, in the table's order; all if none is.

    Raises:
        UserError: The table has no such row.
    """
    known = [row.name for row in rows]
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"--rows: no row {unknown[0]!r} in this table; allowed: {', '.join(known)}")
    return [row for row in rows if not names or row.name in names]


def check_benchmark_options(settings: Settings, row: Row, read: ReadOptions) -> None:
    """Refuse options that the benchmark would refuse after hours of other steps.

    Raises:
        UserError: They ask for more than one case.
        SystemExit: It does not know them.
    """
    if not settings.benchmark_options:
        return
    (speed,) = [step for step in row.steps if step.name == "speed"]
    parsed = read(speed.command[2:])
    for name in ("size", "batch", "dtype", "device"):
        values = getattr(parsed, name) or ()
        if len(values) > 1:
            raise UserError(f"--benchmark-options: one --{name}, not {len(values)}: a row has one")


def preview(table: Table, settings: Settings, rows: list[Row], steps: Sequence[str]) -> str:
    """What would run, as text: the commands, what they need, and where to get what is not there."""
    needed = plan.needs_of(rows, steps)
    lines = [table.title, f"work dir: {settings.work_dir}", "", "needed:"]
    lines += _needed(needed) if needed else ["  nothing, all is done"]
    prefix = "".join(f"{k}={v} " for k, v in running.visible_gpus(settings.device).items())
    for row in rows:
        lines += ["", f"{row.name}:"]
        for step in (step for step in row.steps if step.name in steps):
            lines.append(f"  {step.name}{_status(row, step)}: {prefix}{step.text()}")
            if step.written and not step.written[0].exists():
                lines.append("    (that config, the row's with your options, is written then)")
    missing = len(requirements.missing(needed))
    return "\n".join([*lines, "", f"{missing or 'nothing'} missing"])


def _needed(needed: list[Requirement]) -> list[str]:
    lines = [f"  {item.status:8} {item.place}: {item.note or item.detail}" for item in needed]
    absent = [item for item in needed if item.status != THERE]
    for get in dict.fromkeys(item.get for item in absent):
        places = [item.place for item in absent if item.get == get]
        lines += [f"  get {get}", f"      -> {', '.join(places)}"]
    return lines


def _status(row: Row, step: Step) -> str:
    if row.is_done(step):
        return " (done)"
    return " (changed)" if row.has_changed(step) else ""


def check(rows: list[Row], steps: Sequence[str]) -> None:
    """Look for all that is needed, and fetch what can be fetched.

    Raises:
        UserError: Something is missing; the message says all that is.
    """
    needed = plan.needs_of(rows, steps)
    if lacking := requirements.missing(needed):
        each = "; ".join(f"{item.place} ({item.detail})" for item in lacking)
        raise UserError(f"missing: {each}. --dry-run says where to get what")
    requirements.fetch(needed)


def run(
    table: Table,
    settings: Settings,
    rows: list[Row],
    chosen: list[Row],
    steps: tuple[str, ...],
    keep_going: bool,
) -> int:
    """Run the chosen of all rows, and write the table after each; 1 if a command failed."""
    env = environment(**running.visible_gpus(settings.device))
    failed = False
    for row in chosen:
        try:
            running.run_row(row, steps, table, env)
        except running.StepFailedError as error:
            failed = True
            print(f"reproduce.py: {error}", file=sys.stderr)
        finally:
            # Together, lest a process that runs other rows writes an older table over this one.
            with only_one(settings.work_dir, running.WAIT):
                plan.refresh(rows)
                paths = results.write_table(table, settings, rows)
        if failed and not keep_going:
            break
    print("", *results.grid(table, rows), "", sep="\n")
    print(f"Wrote {' and '.join(map(str, paths))}, which say what the columns mean")
    return int(failed)
