"""A case: what the rows of one table share, the variants that it measures, and their rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmseg_tome.errors import first_line
from mmseg_tome.runtime.precision import DTYPES as HALF

from . import flops, measure, networks, peer, results
from .networks import Model, Pipeline, Recipe

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

    model: Model
    size: tuple[int, int]
    batch: int
    dtype: str
    device: torch.device
    settings: Settings

    def key(self) -> dict:
        """The columns that name the case in a report, see `results.CASE`."""
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

    def entries(self) -> Iterator[tuple[str, Recipe]]:
        """What is measured, in that order: each variant with each pipeline.

        The peers go first: our outputs are compared with theirs.
        """
        settings = self.settings
        wanted = {
            networks.PEER: settings.peer,
            networks.FUSED_PEER: settings.fused_peer,
            networks.COMPILED_PEER: settings.compiled_peer,
            networks.OURS: True,
            networks.GRAPHS: settings.graphs,
        }
        recipes = [recipe for recipe, is_wanted in wanted.items() if is_wanted]
        if settings.compile:
            by = torch.compile
            recipes = [replace(recipe, launch=by, launch_training=by) for recipe in recipes]
        return itertools.product(self.model.variants, recipes)

    def assemble(self, variant: str, recipe: Recipe) -> Pipeline:
        """Build a variant on the CPU, in eval mode, with random weights.

        Raises:
            UsageError: It cannot be built, see `networks.build`.
        """
        options, part = self.model.variants[variant], self.settings.part
        net = networks.build(self.model, options, recipe.of_peer, part)
        if recipe.fused:
            peer.fuse_attention(net.backbone)
        return net

    def new_row(self, variant: str, recipe: Recipe) -> dict:
        """The row of a variant before anything is measured."""
        row = self.key() | results.empty_row(variant, recipe.name)
        row["baseline"] = not self.model.variants[variant]
        return row

    def finish(self, rows: list[dict]) -> list[dict]:
        """All rows sorted for the table, with their ratios."""
        variants, names = list(self.model.variants), list(networks.RECIPES)
        rows.sort(key=lambda r: (variants.index(r["variant"]), names.index(r["pipeline"])))
        results.add_ratios(rows)
        return rows


def _batch_norms(tensors: dict[str, Tensor]) -> set[str]:
    return {key.rpartition(".")[0] for key in tensors if key.endswith(".running_mean")}


def inspect(row: dict, net: Pipeline, forward: measure.Forward, case: Case) -> None:
    """Run ``forward`` once and fill in what does not depend on the machine."""
    _, found = flops.count_flops(forward)
    per_image = {op: count / case.batch / 1e9 for op, count in found.items()}
    row["gflops"] = sum(per_image.values())
    row["gflops_by_operator"] = per_image
    row["attention"] = flops.attention_backend(found)
    row["weights_mib"] = sum(t.nbytes for t in net.state_dict().values()) / measure.MIB
    if networks.is_ours(row["pipeline"]):
        row["tokens_kept"] = net.backbone.tokens_kept(case.size)


def add_times(row: dict, times: list[float]) -> None:
    """Fill in what samples in milliseconds say."""
    row["latency_ms"] = measure.summarise(times)
    row["samples_ms"] = times
    row["images_per_s"] = row["batch"] * 1e3 / row["latency_ms"]["median"]


@contextmanager
def failures_into(row: dict, key: str = "error") -> Iterator[None]:
    """What fails inside becomes the row's error.

    Raises:
        UsageError: One of our variants cannot be built.
    """
    try:
        yield
    except networks.UsageError as error:
        if networks.is_ours(row["pipeline"]):
            raise
        row[key] = str(error)
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        row[key] = f"{type(error).__name__}: {first_line(error)[:120]}"
