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
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, DictAction
from rich.console import Console

from mmseg_tome.config import DTYPES, check_counts, read_size
from mmseg_tome.files import TOOLS, make_folder, replacing
from mmseg_tome.lab.bench import cases as models
from mmseg_tome.lab.bench import report as network_report
from mmseg_tome.lab.bench.cases import UsageError

from . import logs, losses, report, running, sampling, variants
from .data import CITYSCAPES_SIZE, Data
from .running import Budget, Execute
from .variants import CASES, LOSSES, Run, Workspace


@dataclass
class Plan:
    """All that a call runs."""

    timed: list[Run]
    compared: list[list[Run]]

    @property
    def runs(self) -> list[Run]:
        """Every command once."""
        return [*self.timed, *(run for runs in self.compared for run in runs)]


def plan(args: argparse.Namespace) -> Plan:
    """What the command line asks for.

    Raises:
        UsageError: It asks for something that is not there, or does not go together.
    """
    names = args.models or ["b0"]
    presets = list(dict.fromkeys(args.presets))
    for what, given, allowed in (
        ("model", names, models.NAMES),
        ("preset", presets, ("none", "hq", "fast", "n2d")),
        ("dtype", args.dtype, DTYPES),
    ):
        if unknown := [name for name in given if name not in allowed]:
            allowed = ", ".join(allowed)
            raise UsageError(f"--as-typed: unknown {what} {unknown[0]!r}; allowed: {allowed}")
    check_counts(args, "rounds", "images", "iters", "gpus")
    if args.size and len(args.size) > 1:
        raise UsageError("--as-typed takes one --size")
    asked = list(dict.fromkeys(args.as_typed or CASES))
    timed, compared = [], []
    for model in dict.fromkeys(names):
        for name in asked:
            if name == LOSSES.name:
                compared += losses.runs_of(model, presets, args.dtype, args.gpus)
            else:
                switches = (presets, args.dtype, args.launch, args.gpus)
                timed += variants.runs_of(CASES[name], model, *switches)
    return Plan(timed, compared)


def run(args: argparse.Namespace, console: Console, start: Execute = running.execute) -> int:
    """Time what the command line asks for; 0, or 1 if a run failed.

    Args:
        args: The command line.
        console: To print to.
        start: Runs a command; a test brings its own.

    Raises:
        UsageError: It cannot be done.
    """
    todo = plan(args)
    budget = Budget(args.time_limit)
    make_folder(args.out)
    with ExitStack() as stack:
        folder = args.folder or stack.enter_context(tempfile.TemporaryDirectory())
        root = Path(folder).absolute()
        size = read_size(args.size[0]) if args.size else CITYSCAPES_SIZE
        workspace = Workspace(root, size)
        for each in todo.runs:  # a config that is missing shows before anything runs
            workspace.config(each)
        used = list(dict.fromkeys(each.case.data for each in todo.runs))
        Data(args.images, min(24, args.images), size).make(root / "data", used)
        for each in todo.runs:
            workspace.make_checkpoint(each)
        session = Session(args, workspace, budget, console, start)
        session.describe(todo)
        session.time(todo.timed)
        session.compare(todo.compared)
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
        self.environment = environment()
        self.train = [
            "randomness.seed=0",
            "default_hooks.checkpoint.save_last=False",
            f"default_hooks.checkpoint.interval={args.iters + 1}",
            f"train_cfg.max_iters={args.iters}",
            *args.cfg_options,
        ]

    def describe(self, todo: Plan) -> None:
        """Find out what attention the models run."""
        configs = {str(self.workspace.config(r)): f"{r.case.name} {r.variant}" for r in todo.runs}
        dtypes = list(dict.fromkeys(each.dtype for each in todo.runs))
        module = [sys.executable, "-W", "ignore", "-m", "mmseg_tome.lab.bench.as_typed.attention"]
        command = [*module, ",".join(dtypes), *configs]
        try:
            _, output = self.start(command, TOOLS, self.budget.left)
        except TimeoutError as stopped:
            output = str(stopped)
        last = (output.strip().splitlines() or [""])[-1]
        if last.startswith("{"):
            found = {
                dtype: {name: seen[path] for path, name in configs.items()}
                for dtype, seen in json.loads(last).items()
            }
        else:
            found = f"not found out: {last}"
        self.environment["attention"] = found

    def time(self, runs: list[Run]) -> None:
        """Run each variant once a round."""
        for number in range(1, self.args.rounds + 1):
            for each in runs:
                self._time(each, number)

    def _time(self, each: Run, number: int) -> None:
        cfg = Config.fromfile(self.workspace.config(each))
        for option in self.args.cfg_options:
            key, _, value = option.partition("=")
            cfg.merge_from_dict({key: DictAction._parse_iterable(value)})
        size = "x".join(map(str, self.workspace.size)) if each.case.data == "cityscapes" else ""
        if not size:
            size = "x".join(map(str, cfg.codec.input_size[::-1]))
        row = report.new_row(each, variants.batch_size(cfg, each), size) | {"round": number}
        window = logs.window_of(self._iterations(each, row["batch"]) - self.args.warmup)
        options = [
            *logs.options(window),
            *(self.train if each.case.trains else self.args.cfg_options),
        ]
        python_args = shlex.split(self.args.python_args)
        row["command"] = shlex.join(self.workspace.command(each, options, python_args))
        outcome = running.run(
            self.workspace, each, shlex.split(row["command"]), self.budget, self.start
        )
        running.measure(row, outcome, self.args.warmup)
        self.rows.append(row)
        seconds = f"{row['seconds']:.4f} s" if row["seconds"] else "-"
        self._say(f"round {number}, {each.name}: {seconds} ({row['wall_s']:.0f} s in all)", row)

    def _iterations(self, each: Run, batch: int) -> int:
        if each.case.trains:
            return self.args.iters
        persons = {"coco": self.args.images * 4, "jump_broadcast": self.args.images * 4}
        return persons.get(each.case.data, self.args.images) // batch

    def compare(self, comparisons: list[list[Run]]) -> None:
        """Put the losses of graphs and eager runs side by side."""
        for runs in comparisons:
            row = losses.compare(self.workspace, runs, self.train, self.budget, self.start)
            self.losses.append(row)
            self._say(f"losses, {runs[0].name}: {row['difference']}, eager {row['noise']}", row)

    def _say(self, line: str, row: dict) -> None:
        error = f": {row['error']}" if row["error"] else ""
        self.console.print(line + error, highlight=False, markup=False)
        self._write()

    def _write(self) -> None:
        content = {
            "environment": self.environment,
            "arguments": network_report.plain(self.args),
            "definitions": report.DEFINITIONS,
            "table": report.summarise(self.rows),
            "losses": self.losses,
            "runs": self.rows,
        }
        text = json.dumps(content, indent=1) + "\n"
        with replacing(self.args.out / "as_typed.json") as temporary:
            temporary.write_text(text)

    def finish(self) -> int:
        """Print the tables; the exit code."""
        self._write()
        said = dict.fromkeys(line for row in (*self.rows, *self.losses) for line in row["said"])
        self.console.print(*said, sep="\n", highlight=False, markup=False)
        env = self.environment
        if busy := network_report.warning(env):
            self.console.print(busy, style="yellow", highlight=False)
        gpus = ", ".join(env["gpus"]) or "no GPU"
        versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items())
        self.console.print(f"{env['cpu']}, {env['cpu_cores']} cores; {gpus}", versions, sep="\n",
                           highlight=False, markup=False)  # fmt: skip
        report.print_tables(report.summarise(self.rows), self.console)
        if self.losses:
            report.print_losses(self.losses, self.console)
        failed = [row for row in (*self.rows, *self.losses) if row["error"]]
        for row in failed:
            print(f"benchmark.py: {row['case']}, {row['variant']}: {row['error']}", file=sys.stderr)
        return 1 if failed else 0


def environment() -> dict:
    """Hardware and versions; no CUDA is started in this process, it would take memory."""
    found = sampling.query("name,driver_version,memory.total")
    return network_report.environment([]) | {"gpus": [" ".join(gpu) for gpu in found]}
