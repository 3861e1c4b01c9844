"""Whether training by CUDA graphs computes the same losses as kernel by kernel.

Each variant trains three times from the same weights and seed: by graphs, eagerly, and eagerly
again. Some backward kernels of GPUs add in an order of their own, so that two eager runs differ as
well, and more with every step: that difference is what "equal to rounding" is measured by. The
learning rate is the schedule's final one from the first step on, so that an update that goes wrong
shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import logs, report
from .running import Budget, Execute, run
from .variants import LOSSES, Run, Workspace

STEPS = 50
OPTIONS = [*logs.options(1), "param_scheduler.0.start_factor=1.0", "randomness.seed=0"]
LABELS = {"graphs": "graphs", "eager": "eager", "again": "eager again"}


def runs_of(
    model: str, presets: list[str], dtypes: list[str], gpus: list[int]
) -> Iterator[list[Run]]:
    """The three runs of each comparison: graphs, eager, eager again."""
    for count in gpus:
        for dtype in dtypes:
            for preset in presets:
                common = (LOSSES, model, preset, dtype)
                yield [
                    Run(*common, "graphs", count),
                    Run(*common, "eager", count),
                    Run(*common, "eager", count, repeat=1),
                ]


def compare(
    workspace: Workspace, runs: list[Run], train: list[str], budget: Budget, start: Execute
) -> dict:
    """Run the three and put their losses side by side, see `report.LOSSES`.

    Args:
        workspace: Where.
        runs: As `runs_of` gives them.
        train: Settings of the training runs.
        budget: Time left.
        start: Runs a command.
    """
    row = report.losses_row(runs[0])
    found = {}
    for label, each in zip(LABELS, runs, strict=True):
        command = workspace.command(each, [*train, *OPTIONS])
        row["commands"].append(command)
        outcome = run(workspace, each, command, budget, start)
        found[label] = logs.read_losses(outcome.work_dir)
        row["said"] += logs.said(f"{logs.read_log(outcome.work_dir)}\n{outcome.output}")
        if outcome.error:
            row["error"] = f"{LABELS[label]}: {outcome.error}"
            row["output_tail"] = outcome.output[-4000:]
            break
    row["losses"] = found
    row["said"] = list(dict.fromkeys(row["said"]))
    if not row["error"]:
        row["steps"] = len(found["eager"])
        row["difference"] = largest_difference(found["graphs"], found["eager"])
        row["noise"] = largest_difference(found["again"], found["eager"])
        if row["difference"] is None:
            row["error"] = f"{len(found['graphs'])} losses by graphs, {row['steps']} eagerly"
    return row


def largest_difference(losses: list[float], reference: list[float]) -> float | None:
    """The largest ``|a - b| / |b|`` of two runs' losses; None if their numbers of steps differ."""
    if not reference or len(losses) != len(reference):
        return None
    return max(abs(a - b) / abs(b) for a, b in zip(losses, reference, strict=True))
