"""``benchmark.py --as-typed``: times what users type, `tools/test.py` and `tools/train.py`.

Every command runs in a process of its own, in a folder that holds made-up data and random weights
(`data`, `variants`); its iterations are timed by mm's own timer (`logs`). Rounds go through all
variants in turn. The JSON is written after every run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from mmengine.config import Config, DictAction
from rich.console import Console

from mmseg_tome.config import DTYPES, check_counts, read_size
from mmseg_tome.files import TOOLS, make_folder, replacing
from mmseg_tome.lab.bench import networks, results, tables

from . import logs, losses, runs, summary, variants
from .data import CITYSCAPES_SIZE, PERSONS, Data
from .runs import Budget, Execute
from .variants import LOSSES, TASKS, Run, Workspace


def plan(args: argparse.Namespace) -> tuple[list[Run], list[dict[str, Run]]]:
    """What the command line asks for: runs to time, and those whose losses are compared.

    Raises:
        UsageError: It asks for something that is not there, or does not go together.
    """
    models = list(dict.fromkeys(args.models or ["b0"]))
    presets = list(dict.fromkeys(args.presets))
    for what, given, allowed in (
        ("model", models, networks.NAMES),
        ("preset", presets, tuple(networks.PRESETS)),
        ("dtype", args.dtype, DTYPES),
    ):
        networks.check_names(what, given, allowed, "--as-typed: ")
    check_counts(args, "rounds", "images", "iters", "gpus")
    if args.size and len(args.size) > 1:
        raise networks.UsageError("--as-typed takes one --size")
    timed, compared = [], []
    for model in models:
        for name in dict.fromkeys(args.as_typed or TASKS):
            if name == LOSSES.name:
                compared += losses.runs_of(model, presets, args.dtype, args.gpus)
            else:
                switches = (presets, args.dtype, args.launch, args.gpus)
                timed += variants.runs_of(TASKS[name], model, *switches)
    return timed, compared


def run(args: argparse.Namespace, console: Console, start: Execute = runs.execute) -> int:
    """Time what the command line asks for; 0, or 1 if a run failed.

    Args:
        args: The command line.
        console: To print to.
        start: Runs a command; a test brings its own.

    Raises:
        UsageError: It cannot be done.
    """
    timed, compared = plan(args)
    every = [*timed, *(each for comparison in compared for each in comparison.values())]
    budget = Budget(args.time_limit)
    make_folder(args.out)
    with ExitStack() as stack:
        folder = args.folder or stack.enter_context(tempfile.TemporaryDirectory())
        root = Path(folder).absolute()
        size = read_size(args.size[0]) if args.size else CITYSCAPES_SIZE
        workspace = Workspace(root, size)
        for each in every:  # a config that is missing shows before anything runs
            workspace.config(each)
        used = list(dict.fromkeys(each.task.data for each in every))
        Data(args.images, min(24, args.images), size).make(root / "data", used)
        for each in every:
            workspace.make_checkpoint(each)
        session = Session(args, workspace, budget, console, start)
        session.find_attention(every)
        for number in range(1, args.rounds + 1):
            for each in timed:
                session.time(each, number)
        for comparison in compared:
            session.compare(comparison)
    return session.finish()


class Session:
    """The runs of one call, and what is known of them so far."""

    def __init__(
        self,
        args: argparse.Namespace,
        workspace: Workspace,
        budget: Budget,
        console: Console,
        start: Execute,
    ):
        self.args, self.workspace, self.budget = args, workspace, budget
        self.console, self.start = console, start
        self.rows: list[dict] = []
        self.losses: list[dict] = []
        # No CUDA is started in this process: it would take memory.
        gpus = [" ".join(gpu) for gpu in runs.query("name,driver_version,memory.total")]
        self.environment = results.environment([]) | {"gpus": gpus}
        self.train = [
            "randomness.seed=0",
            "default_hooks.checkpoint.save_last=False",
            f"default_hooks.checkpoint.interval={args.iters + 1}",
            f"train_cfg.max_iters={args.iters}",
            *args.cfg_options,
        ]

    def find_attention(self, every: list[Run]) -> None:
        """Find out what attention the models run."""
        configs = {str(self.workspace.config(r)): f"{r.task.name} {r.variant}" for r in every}
        dtypes = list(dict.fromkeys(each.dtype for each in every))
        module = [sys.executable, "-W", "ignore", "-m", "mmseg_tome.lab.bench.as_typed.attention"]
        command = [*module, ",".join(dtypes), *configs]
        try:
            _, output = self.start(command, TOOLS, self.budget.left)
        except TimeoutError as stopped:
            output = str(stopped)
        last = (output.strip().splitlines() or [""])[-1]
        found = f"not found out: {last}"
        if last.startswith("{"):
            found = {
                dtype: {name: seen[path] for path, name in configs.items()}
                for dtype, seen in json.loads(last).items()
            }
        self.environment["attention"] = found

    def time(self, each: Run, number: int) -> None:
        """Run a variant, in round ``number``."""
        args = self.args
        cfg = Config.fromfile(self.workspace.config(each))
        for option in args.cfg_options:
            key, _, value = option.partition("=")
            cfg.merge_from_dict({key: DictAction._parse_iterable(value)})
        cityscapes = each.task.data == "cityscapes"
        size = self.workspace.size if cityscapes else cfg.codec.input_size[::-1]
        batch = variants.batch_size(cfg, each)
        row = summary.new_row(each, batch, "x".join(map(str, size))) | {"round": number}
        tested = args.images * (1 if cityscapes else PERSONS) // batch
        window = logs.window_of((args.iters if each.task.trains else tested) - args.warmup)
        options = [*logs.options(window), *(self.train if each.task.trains else args.cfg_options)]
        command = self.workspace.command(each, options, shlex.split(args.python_args))
        row["command"] = shlex.join(command)
        outcome = runs.run(self.workspace, each, command, self.budget, self.start)
        runs.fill(row, outcome, args.warmup)
        self.rows.append(row)
        seconds = f"{row['seconds']:.4f} s" if row["seconds"] else "-"
        self._say(f"round {number}, {each.name}: {seconds} ({row['wall_s']:.0f} s in all)", row)

    def compare(self, comparison: dict[str, Run]) -> None:
        """Put the losses of graphs and eager runs side by side."""
        row = losses.compare(self.workspace, comparison, self.train, self.budget, self.start)
        self.losses.append(row)
        name = comparison["graphs"].name
        self._say(f"losses, {name}: {row['difference']}, eager {row['noise']}", row)

    def _say(self, line: str, row: dict) -> None:
        error = f": {row['error']}" if row["error"] else ""
        self.console.print(line + error, highlight=False, markup=False)
        self._write()

    def _write(self) -> None:
        content = {
            "environment": self.environment,
            "arguments": results.plain(self.args),
            "definitions": summary.DEFINITIONS,
            "table": summary.summarise(self.rows),
            "losses": self.losses,
            "runs": self.rows,
        }
        with replacing(self.args.out / "as_typed.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")

    def finish(self) -> int:
        """Print the tables; the exit code."""
        self._write()
        console, env, rows = self.console, self.environment, (*self.rows, *self.losses)
        said = dict.fromkeys(line for row in rows for line in row["said"])
        console.print(*said, sep="\n", highlight=False, markup=False)
        tables.print_warning(env, console)
        gpus = ", ".join(env["gpus"]) or "no GPU"
        hardware = f"{env['cpu']}, {env['cpu_cores']} cores; {gpus}"
        console.print(hardware, tables.versions(env), sep="\n", highlight=False, markup=False)
        summary.print_tables(summary.summarise(self.rows), console)
        if self.losses:
            summary.print_losses(self.losses, console)
        failed = [row for row in rows if row["error"]]
        for row in failed:
            print(f"benchmark.py: {row['case']}, {row['variant']}: {row['error']}", file=sys.stderr)
        return 1 if failed else 0
