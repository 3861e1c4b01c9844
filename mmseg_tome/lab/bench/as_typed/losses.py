"""Whether training by CUDA graphs computes the same losses as kernel by kernel.

Each variant trains three times from the same weights and seed: by graphs, eagerly, and eagerly
again. Some backward kernels of GPUs add in an order of their own, so that two eager runs differ as
well, and more with every step: that difference is what "equal to rounding" is measured by. The
learning rate is the schedule's final one from the first step on, so that an update that goes wrong
shows.
"""

from __future__ import annotations

import itertools

from . import logs, summary
from .runs import TAIL, Budget, Execute, run
from .variants import LOSSES, Run, Workspace

OPTIONS = [*logs.options(1), "param_scheduler.0.start_factor=1.0", "randomness.seed=0"]
LABELS = {"graphs": "graphs", "eager": "eager", "again": "eager again"}


def runs_of(
    model: str, presets: list[str], dtypes: list[str], gpus: list[int]
) -> list[dict[str, Run]]:
    """The runs of each comparison, by the keys of `LABELS`."""
    return [
        {
            "graphs": Run(LOSSES, model, preset, dtype, "graphs", count),
            "eager": Run(LOSSES, model, preset, dtype, "eager", count),
            "again": Run(LOSSES, model, preset, dtype, "eager", count, repeat=1),
        }
        for count, dtype, preset in itertools.product(gpus, dtypes, presets)
    ]


def compare(
    workspace: Workspace, runs: dict[str, Run], train: list[str], budget: Budget, start: Execute
) -> dict:
    """Run the three and put their losses side by side, see `summary.losses_row`.

    Args:
        workspace: Where.
        runs: As `runs_of` gives them.
        train: Settings of the training runs.
        budget: Time left.
        start: Runs a command.
    """
    row = summary.losses_row(runs["graphs"])
    found = row["losses"] = {}
    for label, each in runs.items():
        command = workspace.command(each, [*train, *OPTIONS])
        row["commands"].append(command)
        outcome = run(workspace, each, command, budget, start)
        found[label] = logs.read_losses(outcome.work_dir)
        row["said"] += logs.said(f"{logs.read_log(outcome.work_dir)}\n{outcome.output}")
        if outcome.error:
            row["error"] = f"{LABELS[label]}: {outcome.error}"
            row["output_tail"] = outcome.output[-TAIL:]
            break
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
