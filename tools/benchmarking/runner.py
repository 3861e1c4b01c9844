"""Running one case: all variants are built, compared with the peer, measured, timed in turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import breakdown, cases, measure, report
from .rates import Rates

Weights = dict[str, dict[str, Tensor]]
"""A state dict for each pipeline, `ours` and `peer`: the same values in their own layouts."""


@dataclass(frozen=True)
class Settings:
    """What all cases of a run share; the fields are the command line's options."""

    part: str = "model"
    peer: bool = True
    autocast: bool = False
    compile: bool = False
    rounds: int = 10
    warmup: int = 1


@dataclass(frozen=True)
class Case:
    """What the rows of one table have in common; ``size`` is (H, W) in pixels."""

    model: cases.Model
    size: tuple[int, int]
    batch: int
    dtype: str
    device: torch.device
    settings: Settings

    def key(self) -> dict:
        """The columns that name the case in a report, see `report.CASE`."""
        return {
            "model": self.model.name,
            "size": f"{self.size[0]}x{self.size[1]}",
            "batch": self.batch,
            "dtype": self.dtype + (" autocast" if self.settings.autocast else ""),
            "device": str(self.device),
            "part": self.settings.part,
        }

    @property
    def element(self) -> torch.dtype:
        """Data type of weights and input."""
        return torch.float32 if self.settings.autocast else getattr(torch, self.dtype)

    def image(self) -> Tensor:
        """A fixed random input, ``[batch, 3, H, W]``."""
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(self.batch, 3, *self.size, generator=generator)
        return image.to(self.device, self.element)

    def place(self, weights: Weights) -> Weights:
        """The weights on this case's device, in its data type."""
        return {
            pipeline: {
                key: value.to(self.device, self.element if value.is_floating_point() else None)
                for key, value in tensors.items()
            }
            for pipeline, tensors in weights.items()
        }

    def forward(self, net: nn.Module, image: Tensor) -> measure.Forward:
        """One forward pass as a function without arguments."""
        autocast = {"dtype": getattr(torch, self.dtype), "enabled": self.settings.autocast}

        @torch.inference_mode()
        def forward() -> Tensor:
            with torch.autocast(self.device.type, **autocast):
                return net(image)

        return forward


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
        UsageError: one of our variants cannot be built.
    """
    measure.make_current(case.device)
    weights, image = case.place(weights), case.image()
    rows, running, peer_outputs = [], [], {}
    for variant, pipeline in _variants(case):
        row = case.key() | report.empty_row(variant, pipeline)
        row["baseline"] = not case.model.variants[variant]
        rows.append(row)
        try:
            net = _build(case, variant, pipeline, weights[pipeline])
            forward = eager = case.forward(net, image)
            output = _inspect(row, net, forward, case)
            if pipeline == "peer":
                peer_outputs[variant] = output
            elif variant in peer_outputs:
                row["difference"] = measure.relative_difference(output, peer_outputs.pop(variant))
            if case.settings.compile:
                forward = case.forward(torch.compile(net), image)
                forward()
            for _ in range(case.settings.warmup):
                forward()
            row["memory_mib"], row["memory_kind"] = measure.peak_memory(forward, case.device)
            running.append((row, forward, net, eager))
        except cases.UsageError as error:
            if pipeline == "ours":
                raise
            row["error"] = str(error)
        except (RuntimeError, NotImplementedError, MemoryError) as error:
            row["error"] = _first_line(error)
        advance()
    forwards = [forward for _, forward, _, _ in running]
    samples = measure.time_in_turns(forwards, case.settings.rounds, case.device, on_sample=advance)
    for (row, *_), times in zip(running, samples, strict=True):
        row["latency_ms"] = measure.summarise(times)
        row["samples_ms"] = times
        row["images_per_s"] = case.batch * 1e3 / row["latency_ms"]["median"]
    if rates:
        for row, _, net, eager in running:
            _break_down(row, net, eager, case, rates)
            advance()
    labels = list(case.model.variants)
    rows.sort(key=lambda row: (labels.index(row["variant"]), row["pipeline"] == "peer"))
    report.add_ratios(rows)
    return rows


def _break_down(
    row: dict, net: cases.Pipeline, forward: measure.Forward, case: Case, rates: Rates
) -> None:
    row["breakdown"] = row["breakdown_error"] = None
    try:
        row["breakdown"] = breakdown.measure_parts(
            net, forward, case.device, case.settings.rounds, rates
        )
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        row["breakdown_error"] = _first_line(error)


def _first_line(error: Exception) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line[:120]}"


def steps(case: Case, with_breakdown: bool = False) -> int:
    """How often `run_case` reports progress if nothing fails."""
    return len(list(_variants(case))) * (1 + case.settings.rounds + with_breakdown)


def _variants(case: Case) -> Iterator[tuple[str, str]]:
    # The peer goes first: our output is compared with its.
    pipelines = ["peer", "ours"] if case.settings.peer else ["ours"]
    return itertools.product(case.model.variants, pipelines)


def _build(case: Case, variant: str, pipeline: str, weights: dict[str, Tensor]) -> cases.Pipeline:
    options = case.model.variants[variant]
    net = cases.build(case.model, options, pipeline == "peer", case.settings.part)
    # The very same tensors in every variant, so that all together need one copy.
    net.load_state_dict(weights, assign=True)
    return net.requires_grad_(False)


def _inspect(row: dict, net: cases.Pipeline, forward: measure.Forward, case: Case) -> Tensor:
    """Fill in what does not depend on the machine; returns the output, on the CPU."""
    output, flops = measure.count_flops(forward)
    per_image = {op: count / case.batch / 1e9 for op, count in flops.items()}
    row["gflops"] = sum(per_image.values())
    row["gflops_by_operator"] = per_image
    row["attention"] = measure.attention_backend(flops)
    row["weights_mib"] = sum(t.nbytes for t in net.state_dict().values()) / measure.MIB
    if row["pipeline"] == "ours":
        row["tokens_kept"] = net.backbone.tokens_kept(case.size)
    return output.cpu()
