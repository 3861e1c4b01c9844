"""Timing forward passes: all variants of a case are in memory and take turns in every round."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mmseg_tome.runtime.acceleration import accelerate
from mmseg_tome.runtime.calibration import calibrate

from . import breakdown, measure, networks
from .cases import Case, Weights, add_times, failures_into, inspect
from .networks import Pipeline, Recipe
from .rates import Rates


def run_case(
    case: Case,
    weights: Weights,
    advance: Callable[[], None] = lambda: None,
    rates: Rates | None = None,
) -> list[dict]:
    """Measure all variants of a case; one row each, in the order of the table.

    A variant that fails (out of memory, an operator that lacks the data type) gets a row that
    says so, and the others go on. ``advance`` is called `steps` times. With the ``rates`` of the
    device, rows also tell where the time goes; that is measured after all latencies.

    Raises:
        UsageError: One of our variants cannot be built.
    """
    measure.make_current(case.device)
    weights, image = case.place(weights), case.image()
    rows, running = [], []
    references: dict[str, tuple[str, Tensor]] = {}  # of each variant, the first pipeline's output
    for variant, recipe in case.entries():
        row = case.new_row(variant, recipe)
        rows.append(row)
        with failures_into(row):
            net = build(case, variant, recipe, weights)
            with case.autocast():  # decides where `-auto` merges
                calibrate(net, image, graphs=recipe.launch is networks.by_graphs)
            eager = case.forward(net, image)
            inspect(row, net, eager, case)
            launched = recipe.launch(net)
            forward = case.forward(launched, image)
            if launched is not net:
                forward()  # compiles
            row["memory_mib"], row["memory_kind"] = measure.peak_memory(forward, case.device)
            output = forward().cpu()
            for _ in range(case.settings.warmup):
                forward()
            row["launch"] = networks.launch_of(launched)
            if "CUDA graphs" in row["launch"]:
                row["memory_kind"] += ", its capture as a CUDA graph included"
            name, reference = references.setdefault(variant, (recipe.name, output))
            if name != recipe.name:
                row["reference"] = name
                row["difference"] = measure.relative_difference(output, reference)
            running.append((row, forward, net, eager))
        advance()
    forwards = [forward for _, forward, _, _ in running]
    rounds = case.settings.rounds
    samples = measure.time_in_turns(forwards, rounds, case.device, on_sample=advance)
    for (row, *_), times in zip(running, samples, strict=True):
        add_times(row, times)
    for row, _, net, eager in running if rates else ():
        row["breakdown"] = row["breakdown_error"] = None
        # Parts are eager: those of other launches would be the same.
        if networks.RECIPES[row["pipeline"]].launch is networks.as_built:
            with failures_into(row, "breakdown_error"):
                row["breakdown"] = breakdown.measure_parts(net, eager, case.device, rounds, rates)
        advance()
    return case.finish(rows)


def steps(case: Case, with_breakdown: bool = False) -> int:
    """How often `run_case` reports progress if nothing fails."""
    return len(list(case.entries())) * (1 + case.settings.rounds + with_breakdown)


def build(case: Case, variant: str, recipe: Recipe, weights: Weights) -> Pipeline:
    """Build a variant for inference with weights that `Case.place` placed.

    In half precision ours is what `mmseg_tome.FastInferenceHook` makes of a model.
    """
    net = case.assemble(variant, recipe)
    # The very same tensors in every variant, so that all together need one copy.
    net.load_state_dict(weights[recipe.layout], assign=True)
    net.requires_grad_(False)
    if case.half and not recipe.of_peer:
        accelerate(net, case.dtype, launch="eager")
    return net
