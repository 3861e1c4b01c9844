"""Running one case: all variants are built, compared with the peer, measured, timed in turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmseg_tome.runtime.acceleration import accelerate
from mmseg_tome.runtime.calibration import calibrate
from mmseg_tome.runtime.precision import DTYPES as HALF

from . import breakdown, cases, measure, pipelines, report
from .pipelines import Recipe
from .rates import Rates

Weights = dict[str, dict[str, Tensor]]
"""A state dict for each `Recipe.layout`, `ours` and `peer`: same values, other strides."""


@dataclass(frozen=True)
class Settings:
    """What all cases of a run share; the fields are the command line's options."""

    part: str = "model"
    peer: bool = True
    fused_peer: bool = False
    compiled_peer: bool = False
    graphs: bool = False
    train: bool = False
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
            "mode": "training" if self.settings.train else "inference",
        }

    @property
    def element(self) -> torch.dtype:
        """Data type of weights and input."""
        return torch.float32 if self.settings.autocast else getattr(torch, self.dtype)

    @property
    def half(self) -> bool:
        """Whether weights are in half precision."""
        return not self.settings.autocast and self.dtype in HALF

    def autocast(self) -> torch.autocast:
        """The context that passes run in; does nothing without --autocast."""
        dtype = getattr(torch, self.dtype)
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.settings.autocast)

    def image(self) -> Tensor:
        """A fixed random input, ``[batch, C, H, W]``."""
        generator = torch.Generator().manual_seed(0)
        channels = self.model.backbone.get("in_channels", 3)
        image = torch.randn(self.batch, channels, *self.size, generator=generator)
        return image.to(self.device, self.element)

    def place(self, weights: Weights) -> Weights:
        """The weights on this case's device, in its data type.

        Beside half precision our batch norms stay float32, as `precision.to_half` keeps them.
        """

        def placed(key: str, value: Tensor, wide: set[str]) -> Tensor:
            cast = value.is_floating_point() and key.rpartition(".")[0] not in wide
            return value.to(self.device, self.element if cast else None)

        wide = {"ours": _batch_norms(weights["ours"]) if self.half else set(), "peer": set()}
        return {
            layout: {key: placed(key, value, wide[layout]) for key, value in tensors.items()}
            for layout, tensors in weights.items()
        }

    def forward(self, net: nn.Module, image: Tensor) -> measure.Forward:
        """One forward pass as a function without arguments."""

        @torch.inference_mode()
        def forward() -> Tensor:
            with self.autocast():
                return net(image)

        return forward


def _batch_norms(tensors: dict[str, Tensor]) -> set[str]:
    return {key.rpartition(".")[0] for key in tensors if key.endswith(".running_mean")}


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
    rows, running = [], []
    references: dict[str, tuple[str, Tensor]] = {}  # of each variant, the first pipeline's output
    for variant, recipe in entries(case):
        row = new_row(case, variant, recipe)
        rows.append(row)
        with failures_into(row):
            net = build(case, variant, recipe, weights)
            with case.autocast():  # decides where `-auto` merges
                calibrate(net, image, graphs=recipe.launch is pipelines.by_graphs)
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
            row["launch"] = pipelines.launch_of(launched)
            if "CUDA graphs" in row["launch"]:
                row["memory_kind"] += ", its capture as a CUDA graph included"
            name, reference = references.setdefault(variant, (recipe.name, output))
            if name != recipe.name:
                row["reference"] = name
                row["difference"] = measure.relative_difference(output, reference)
            running.append((row, forward, net, eager))
        advance()
    forwards = [forward for _, forward, _, _ in running]
    samples = measure.time_in_turns(forwards, case.settings.rounds, case.device, on_sample=advance)
    for (row, *_), times in zip(running, samples, strict=True):
        add_times(row, times)
    if rates:
        for row, _, net, eager in running:
            row["breakdown"] = row["breakdown_error"] = None
            if not pipelines.ALL[row["pipeline"]].is_launched:  # parts are eager, those of others
                _break_down(row, net, eager, case, rates)
            advance()
    return in_table_order(rows, case)


def entries(case: Case) -> Iterator[tuple[str, Recipe]]:
    """What a case measures, in that order: each variant with each pipeline.

    The peers go first: our outputs are compared with theirs.
    """
    settings = case.settings
    wanted = (
        (pipelines.PEER, settings.peer),
        (pipelines.FUSED_PEER, settings.fused_peer),
        (pipelines.COMPILED_PEER, settings.compiled_peer),
        (pipelines.OURS, True),
        (pipelines.GRAPHS, settings.graphs),
    )
    recipes = [recipe for recipe, is_wanted in wanted if is_wanted]
    if settings.compile:
        recipes = [
            replace(recipe, launch=torch.compile, launch_training=torch.compile)
            for recipe in recipes
        ]
    return itertools.product(case.model.variants, recipes)


def new_row(case: Case, variant: str, recipe: Recipe) -> dict:
    """The row of a variant before anything is measured."""
    row = case.key() | report.empty_row(variant, recipe.name)
    row["baseline"] = not case.model.variants[variant]
    return row


def in_table_order(rows: list[dict], case: Case) -> list[dict]:
    """All rows of a case sorted for its table, with their ratios."""
    variants, names = list(case.model.variants), list(pipelines.ALL)
    rows = sorted(rows, key=lambda r: (variants.index(r["variant"]), names.index(r["pipeline"])))
    report.add_ratios(rows)
    return rows


def add_times(row: dict, times: list[float]) -> None:
    """Fill in what samples in milliseconds say."""
    row["latency_ms"] = measure.summarise(times)
    row["samples_ms"] = times
    row["images_per_s"] = row["batch"] * 1e3 / row["latency_ms"]["median"]


@contextmanager
def failures_into(row: dict) -> Iterator[None]:
    """What fails inside becomes the row's error.

    Raises:
        UsageError: one of our variants cannot be built.
    """
    try:
        yield
    except cases.UsageError as error:
        if pipelines.is_ours(row["pipeline"]):
            raise
        row["error"] = str(error)
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        row["error"] = _first_line(error)


def _break_down(
    row: dict, net: cases.Pipeline, forward: measure.Forward, case: Case, rates: Rates
) -> None:
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
    return len(list(entries(case))) * (1 + case.settings.rounds + with_breakdown)


def assemble(case: Case, variant: str, recipe: Recipe) -> cases.Pipeline:
    """Build a variant on the CPU, in eval mode, with random weights.

    Raises:
        UsageError: it cannot be built, see `cases.build`.
    """
    options = case.model.variants[variant]
    return recipe.finish(cases.build(case.model, options, recipe.of_peer, case.settings.part))


def build(case: Case, variant: str, recipe: Recipe, weights: Weights) -> cases.Pipeline:
    """Build a variant for inference with weights that `Case.place` placed.

    In half precision ours is what `mmseg_tome.FastInferenceHook` makes of a model.
    """
    net = assemble(case, variant, recipe)
    # The very same tensors in every variant, so that all together need one copy.
    net.load_state_dict(weights[recipe.layout], assign=True)
    net.requires_grad_(False)
    if case.half and not recipe.of_peer:
        accelerate(net, case.dtype, launch="eager")
    return net


def inspect(row: dict, net: cases.Pipeline, forward: measure.Forward, case: Case) -> None:
    """Run ``forward`` once and fill in what does not depend on the machine."""
    _, flops = measure.count_flops(forward)
    per_image = {op: count / case.batch / 1e9 for op, count in flops.items()}
    row["gflops"] = sum(per_image.values())
    row["gflops_by_operator"] = per_image
    row["attention"] = measure.attention_backend(flops)
    row["weights_mib"] = sum(t.nbytes for t in net.state_dict().values()) / measure.MIB
    if pipelines.is_ours(row["pipeline"]):
        row["tokens_kept"] = net.backbone.tokens_kept(case.size)
