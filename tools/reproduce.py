"""Measure a table of the paper again, and write it with the paper's numbers beside.

    python tools/reproduce.py cityscapes-inference --data-root data/cityscapes --dry-run
    python tools/reproduce.py cityscapes-inference --rows none hq fast
    python tools/reproduce.py ade20k --gpus 4 --keep-going

Data and checkpoints are looked for before anything runs. Each row is then run by the standard
tools, train.py, test.py and benchmark.py; a row's state is kept, so that the same command goes on
where the last one ended: what is done is skipped, trainings go on from their latest checkpoint,
and what ran with another command, config or checkpoint runs anew. WORK_DIR/table.md and table.json
hold the table; what was not measured says so.

Exit codes: 0; 1 if a command failed; 2 if a mistake, which is named, kept all from running.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

try:
    import benchmark

    from mmseg_tome.config import TRUST_FLAG
    from mmseg_tome.engine import launch
    from mmseg_tome.engine.folder_lock import only_one
    from mmseg_tome.errors import UserError
    from mmseg_tome.lab.reproduce import plan, preview, report, requirements, running, state
    from mmseg_tome.lab.reproduce.plan import Row, Settings
    from mmseg_tome.lab.reproduce.tables import TABLES, Table
except ImportError as missing:  # no mm stack, or two of them
    sys.exit(f"reproduce.py: error: {missing}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("table", choices=TABLES, metavar="TABLE", help=f"of {', '.join(TABLES)}")
    add("--rows", nargs="+", metavar="ROW", help="of none hq fast n2d downsample (default: all)")
    add("--data-root", type=Path, metavar="FOLDER", help="of the data set (default: the config's)")
    add("--checkpoint", metavar="FILE",
        help="weights in place of the zoo's: the unmerged model's that are tested, or the "
        "ImageNet ones that trainings start from")  # fmt: skip
    add("--work-dir", type=Path, metavar="FOLDER",
        help="of states, logs and the table (default: work_dirs/reproduce/TABLE)")  # fmt: skip
    add("--dry-run", action="store_true",
        help="only show the commands, what they need, where to get what is missing")  # fmt: skip
    add("--keep-going", action="store_true", help="go on with the next row when one fails")
    add("--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: cuda if there)")
    add("--gpus", type=int, default=1, metavar="N",
        help="train and test in N processes, which share the paper's batch")  # fmt: skip
    add("--speed", action=argparse.BooleanOptionalAction, default=True,
        help="measure speed and memory by tools/benchmark.py")  # fmt: skip
    add("--peer", action=argparse.BooleanOptionalAction, default=True,
        help="there, also the stock model with tomesd merging, as the authors run it")  # fmt: skip
    add("--benchmark-options", type=shlex.split, default=[], metavar="TEXT",
        help="further options for it, such as '--dtype bfloat16 --autocast'")  # fmt: skip
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="settings to override in the configs, as in the standard tools")  # fmt: skip
    add(TRUST_FLAG, action="store_true",
        help="let checkpoints run the code they contain: for authors you trust")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns its exit code."""
    args = parse_args(argv)
    return launch.exit_code(
        "reproduce.py", lambda: reproduce(args), "the same command goes on from here"
    )


def reproduce(args: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    table = TABLES[args.table]
    settings = settings_of(args, table)
    rows = plan.make(table, settings)
    chosen = choose_rows(args.rows, rows)
    check_benchmark_options(settings, rows[0])
    steps = ("train", "test", "speed") if args.speed else ("train", "test")
    if args.dry_run:
        print(preview.text(table, settings, chosen, steps))
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


def check_benchmark_options(settings: Settings, row: Row) -> None:
    """Refuse options that the benchmark would refuse after hours of other steps.

    Raises:
        UserError: They ask for more than one case.
        SystemExit: It does not know them.
    """
    if not settings.benchmark_options:
        return
    (speed,) = [step for step in row.steps if step.name == "speed"]
    parsed = benchmark.parse_args(speed.command[2:])
    for name in ("size", "batch", "dtype", "device"):
        values = getattr(parsed, name) or ()
        if len(values) > 1:
            raise UserError(f"--benchmark-options: one --{name}, not {len(values)}: a row has one")


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
    env = running.environment(settings.device)
    failed = False
    for row in chosen:
        try:
            running.run_row(row, steps, table, env)
        except running.StepFailedError as error:
            failed = True
            print(f"reproduce.py: {error}", file=sys.stderr)
        finally:
            # Together, lest a process that runs other rows writes an older table over this one.
            with only_one(settings.work_dir, state.WAIT):
                plan.refresh(rows)
                paths = report.write(table, settings, rows)
        if failed and not keep_going:
            break
    print("", *report.grid(table, rows), "", sep="\n")
    print(f"Wrote {' and '.join(map(str, paths))}, which say what the columns mean")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
