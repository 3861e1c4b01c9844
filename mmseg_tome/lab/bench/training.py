"""Timing training steps: forward in train mode, loss, backward and the optimizer's update.

A step takes far more memory than a forward pass, and it changes its weights. So one variant is in
memory at a time: it is built with weights of its own, timed, and freed, instead of taking turns
with the others in every round. In order that a drift of the machine does not favour some variants,
the whole sequence runs twice, each pass with half of the rounds, from the same weights and the same
seed. Reported are medians over the samples of both passes.

Outputs are not compared: dropout draws different numbers in different pipelines. Inference runs do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tome.runtime.calibration import calibrate
from mmseg_tome.runtime.graphs import graphed_parts

from . import measure, networks
from .cases import Case, Weights, add_times, failures_into, inspect
from .networks import Pipeline, Recipe

Criterion = Callable[[Tensor], Tensor]
"""From a pipeline's output to a loss, without dimensions."""

OPTIMIZER = {"lr": 6e-5, "weight_decay": 0.01}
"""SegFormer's; the values do not matter to the time."""


def run_case(
    case: Case, weights: Weights, advance: Callable[[], None] = lambda: None
) -> list[dict]:
    """Time the training of all variants of a case; one row each, in the order of the table.

    A variant that fails gets a row that says so, and the others go on. ``advance`` is called
    `steps` times if none does.

    Raises:
        UsageError: One of our variants cannot be built.
    """
    measure.make_current(case.device)
    image = case.image()
    entries = list(case.entries())
    rows = [case.new_row(*entry) for entry in entries]
    samples: list[list[float]] = [[] for _ in rows]
    for rounds in _passes(case.settings.rounds):
        for row, entry, times in zip(rows, entries, samples, strict=True):
            measure.release(case.device)
            if not row["error"]:
                with failures_into(row):
                    times += _train(row, case, *entry, weights, image, rounds, advance)
            advance()
    for row, times in zip(rows, samples, strict=True):
        if not row["error"]:
            add_times(row, times)
    measure.release(case.device)
    return case.finish(rows)


def steps(case: Case) -> int:
    """How often `run_case` reports progress if nothing fails."""
    rounds = case.settings.rounds
    return len(list(case.entries())) * (len(_passes(rounds)) + rounds)


def _passes(rounds: int) -> list[int]:
    """Rounds of each pass: half and half."""
    return [n for n in (rounds - rounds // 2, rounds // 2) if n]


def _train(
    row: dict,
    case: Case,
    variant: str,
    recipe: Recipe,
    weights: Weights,
    image: Tensor,
    rounds: int,
    advance: Callable[[], None],
) -> list[float]:
    """Milliseconds of so many steps; fills in the rest of the row on the way."""
    torch.manual_seed(0)
    net = build(case, variant, recipe, weights)
    graphs = recipe.launch_training is networks.by_training_graphs
    with case.autocast():  # decides where `-auto` merges
        calibrate(net, image, training=True, graphs=graphs)
    criterion = criterion_of(case, net, image)
    step = training_step(case, net, criterion, image)
    if row["gflops"] is None:  # the second pass would find the same
        inspect(row, net, step, case)
    launched = recipe.launch_training(net)
    if launched is not net:
        step = training_step(case, launched, criterion, image)
    if graphed_parts(launched):  # a graph keeps what it captures
        _add_memory(row, step, case, "the first training step, which captures the graphs")
    for _ in range(1 + case.settings.warmup):
        step()
    row["launch"] = networks.launch_of(launched)
    _add_memory(row, step, case, "one training step")
    (samples,) = measure.time_in_turns([step], rounds, case.device, on_sample=advance)
    return samples


def _add_memory(row: dict, step: measure.Forward, case: Case, what: str) -> None:
    """Fill in the peak memory of a step, unless it is there."""
    if row["memory_kind"] is None:
        row["memory_mib"], row["memory_kind"] = measure.peak_memory(step, case.device, what)


def build(case: Case, variant: str, recipe: Recipe, weights: Weights) -> Pipeline:
    """Build a variant in train mode on the case's device, with a copy of the weights."""
    net = case.assemble(variant, recipe)
    net.load_state_dict(weights[recipe.layout])  # copies them, and keeps the memory format
    return net.to(case.device, case.element).train()


def criterion_of(case: Case, net: nn.Module, image: Tensor) -> Criterion:
    """The loss of a case, against random targets: always the same ones.

    That of mmseg for a head that classifies, `num_classes` in its config: cross entropy of the
    logits at the labels' size. The mean squared error for whatever else comes out, such as
    heatmaps.
    """
    random = torch.Generator().manual_seed(1)
    if case.settings.part == "model" and "num_classes" in case.model.head:
        shape = (case.batch, *case.size)
        labels = torch.randint(net.head.out_channels, shape, generator=random).to(case.device)

        def cross_entropy(logits: Tensor) -> Tensor:
            logits = F.interpolate(logits, case.size, mode="bilinear", align_corners=False)
            return F.cross_entropy(logits, labels)

        return cross_entropy
    with torch.no_grad(), case.autocast():
        shape = net.eval()(image).shape
    net.train()
    target = torch.rand(shape, generator=random).to(case.device, case.element)
    return lambda output: F.mse_loss(output, target)


def training_step(
    case: Case, net: nn.Module, criterion: Criterion, image: Tensor
) -> measure.Forward:
    """One step as a function without arguments, which returns its loss.

    Gradients are gone after it, so that between two steps there are weights and optimizer state
    alone.
    """
    optimizer = torch.optim.AdamW(net.parameters(), fused=case.device.type == "cuda", **OPTIMIZER)
    # Gradients in float16 underflow unless the loss is scaled up.
    scaled = case.settings.autocast and case.dtype == "float16"
    scaler = torch.amp.GradScaler(case.device.type, enabled=scaled)

    def step() -> Tensor:
        with case.autocast():
            loss = criterion(net(image))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss.detach()

    return step
