"""Where merging pays: one block of each stage is timed on the run's own inputs, before the run.

images = first_input(model, lambda: model.test_step(batch))
calibrate(model, images)       # decides a model of `tome_cfg="hq-auto"`
advise(model, images).warning  # whether another preset were faster than the model's own
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmseg_tome.merging import StageMerging, parse_tome_cfg
from mmseg_tome.merging.attention import NO_MERGING
from mmseg_tome.merging.presets import PRESETS
from mmseg_tome.nets import MixVisionTransformer
from mmseg_tome.nets.layers import autocast_dtype
from mmseg_tome.runtime.graphs import graphed_parts, print_log
from mmseg_tome.runtime.merging_switch import (
    forget_graphs,
    merges,
    merging_backbone,
    merging_of,
)
from mmseg_tome.runtime.timing import (
    as_in_the_run,
    first_input,
    stage_inputs,
    stage_seconds,
    with_what_fits,
)

MARGIN = 0.98
"""Merging is taken if it needs less than this part of the time without: timings scatter."""

CANDIDATES = ("none", "quality", "speed", "n2d", "hq", "fast")
"""What `advise` compares with: presets, and no merging."""


class StageDecision(NamedTuple):
    """What was decided for a stage.

    Attributes:
        merges: Whether its blocks merge.
        merged: Seconds of all its blocks with merging.
        unmerged: Seconds of all its blocks without.
    """

    merges: bool
    merged: float
    unmerged: float


class Calibration(NamedTuple):
    """Where a model merges, and what that was decided for.

    Attributes:
        kind: Of run, see `kind_of`.
        stages: A decision for each stage.
    """

    kind: dict
    stages: list[StageDecision]

    def as_plain(self) -> dict:
        """As dictionaries, lists, numbers and strings, for files."""
        return dict(kind=self.kind, stages=[stage._asdict() for stage in self.stages])

    @classmethod
    def from_plain(cls, plain: Mapping) -> "Calibration":
        """The inverse of `as_plain`.

        Raises:
            ValueError: It is none.
        """
        try:
            stages = [StageDecision(**stage) for stage in plain["stages"]]
            kind = dict(plain["kind"])
        except (KeyError, TypeError):
            raise ValueError(f"no decision for auto merging: {plain!r:.100}") from None
        for stage in stages:
            times = isinstance(stage.merged, float) and isinstance(stage.unmerged, float)
            if not (times and isinstance(stage.merges, bool)):
                raise ValueError(f"no decision for auto merging: {plain!r:.100}")
        return cls(kind, stages)

    def __str__(self) -> str:
        """One line for the log."""
        found = (
            f"stage {i} {'merges' if stage.merges else 'does not merge'} "
            f"({_ms(stage.merged)} merged, {_ms(stage.unmerged)} without)"
            for i, stage in enumerate(self.stages, start=1)
        )
        return f"auto merging for {describe(self.kind)}: {', '.join(found)}"


class Advice(NamedTuple):
    """How long a model's blocks take with its own merging and with other presets.

    Attributes:
        name: The preset that the model merges by; "the configured" for any other `tome_cfg`.
        kind: Of run, see `kind_of`.
        seconds: Of all blocks, by preset, "none" among them. Other presets than the model's are
            timed only where it is slower than "none".
    """

    name: str
    kind: dict
    seconds: dict[str, float]

    @property
    def warning(self) -> str | None:
        """One line if the merging is slower than none: what is faster, and how to have it."""
        own, none = self.seconds[self.name], self.seconds["none"]
        if own * MARGIN <= none:
            return None
        best = min(self.seconds, key=self.seconds.get)
        if self.seconds[best] >= MARGIN * none:
            best = "none"
        better = f"; {best} takes {_ms(self.seconds[best], 1)}" if best != "none" else ""
        value = None if best == "none" else best
        return (
            f"{self.name} merging is slower than no merging for {describe(self.kind)} "
            f"(blocks: {_ms(own, 1)} against {_ms(none, 1)}){better}: "
            f"--cfg-options model.backbone.tome_cfg={value}"
        )


def undecided(model: nn.Module) -> bool:
    """Whether a model's `tome_cfg` has the `-auto` suffix and nothing was decided yet."""
    backbone = merging_backbone(model)
    return backbone is not None and backbone.auto and backbone.merging_stages is None


def calibrate(
    model: nn.Module,
    images: Tensor,
    training: bool = False,
    dtype: torch.dtype | None = None,
    graphs: bool | None = None,
) -> Calibration | None:
    """Decide by a short timing in which stages a model merges, let it do so, and log it.

    A stage's decision is `MixVisionTransformer.merging_stages`. No random numbers are drawn; modes,
    statistics and gradients stay as they are.

    Args:
        model: A model whose `tome_cfg` has the `-auto` suffix; any other is left alone.
        images: Input of its backbone in the run to come, `[B, 3, H, W]` on its device, in the data
            type that the run gives it. See `first_input`.
        training: Whether backward passes are to be timed with it.
        dtype: Data type of autocast in the run; None leaves autocast as it is here.
        graphs: Whether CUDA graphs will be replayed; None if the model has parts that do.

    Returns:
        What was decided; None if nothing was to be.
    """
    backbone = merging_backbone(model)
    if backbone is None or not backbone.auto:
        return None
    with as_in_the_run(images, dtype):
        kind = kind_of(model, images, training, graphs)
        stages = _decide(backbone, images, training, kind["launch"] == "graphs")
    calibration = Calibration(kind, stages)
    obey(model, calibration)
    print_log(str(calibration), "current")
    return calibration


def obey(model: nn.Module, calibration: Calibration) -> None:
    """Let a model merge where it was decided.

    Raises:
        ValueError: The model has no backbone of ours, or one with other stages.
    """
    backbone = merging_backbone(model)
    if backbone is None or len(calibration.stages) != backbone.num_stages:
        raise ValueError(f"decisions for {len(calibration.stages)} stages do not fit the model")
    stages = [stage.merges for stage in calibration.stages]
    if backbone.merging_stages != stages:
        backbone.merging_stages = stages
        forget_graphs(model)


def advise(
    model: nn.Module,
    images: Tensor,
    candidates: Sequence[str] = CANDIDATES,
    training: bool = False,
    dtype: torch.dtype | None = None,
    graphs: bool | None = None,
) -> Advice | None:
    """Estimate the time of a model's blocks with its merging and without.

    If merging is slower, presets that may be faster are timed as well. Nothing changes.

    Args:
        model: As any other argument, see `calibrate`.
        images: See there.
        candidates: Presets to compare with.
        training: See there.
        dtype: See there.
        graphs: See there.

    Returns:
        None if the model has no backbone of ours, or one that merges nothing.
    """
    backbone = merging_backbone(model)
    if backbone is None:
        return None
    own = merging_of(backbone)
    if not any(map(merges, own)):
        return None
    number = backbone.num_stages
    others = {name: parse_tome_cfg(name, number) for name in candidates if _fits(name, number)}
    name = _name_of(own, number)
    known: dict[tuple, float] = {}
    with as_in_the_run(images, dtype), stage_inputs(backbone, images) as inputs:
        kind = kind_of(model, images, training, graphs)
        how = dict(training=training, graphs=kind["launch"] == "graphs")

        def one(i: int, stage: StageMerging) -> float:
            key = i, repr(stage)
            if key not in known:
                known[key] = stage_seconds(backbone.layers[i][1], inputs[i], stage, **how)
            return known[key]

        def total(merging: Sequence[StageMerging]) -> float:
            return sum(one(i, stage) for i, stage in enumerate(merging))

        found = {name: total(own), "none": total([NO_MERGING] * number)}
        if found[name] * MARGIN > found["none"]:
            found |= {other: total(stages) for other, stages in others.items() if stages != own}
    _free(images.device)
    return Advice(name, kind, found)


def kind_of(
    model: nn.Module, images: Tensor, training: bool = False, graphs: bool | None = None
) -> dict:
    """All that a decision depends on, in plain values: two runs of a kind may share it.

    Args:
        model: As `calibrate` takes it, like all others.
        images: See there.
        training: See there.
        graphs: See there.
    """
    backbone = merging_backbone(model)
    hw = tuple(images.shape[2:])
    weights = next(backbone.parameters()).dtype
    autocast = autocast_dtype(images)
    mode = "training" if training else "inference"
    if graphs is None:
        graphs = any(mode in part.uses for part in graphed_parts(model))
    on_gpu = images.is_cuda
    return dict(
        merging=[repr(tuple(stage)) for stage in merging_of(backbone)],
        blocks=list(backbone.num_layers),
        channels=[backbone.embed_dims * heads for heads in backbone.num_heads],
        batch=images.shape[0],
        size=list(hw),
        grids=[[list(q), list(kv)] for q, kv in backbone.grids(hw)],
        dtype=_word(weights) if autocast is None else f"{_word(autocast)} autocast",
        device=torch.cuda.get_device_name(images.device) if on_gpu else str(images.device),
        launch="graphs" if graphs and on_gpu else "eager",
        mode=mode,
        recomputes=bool(training and backbone.with_cp),
    )


def describe(kind: Mapping) -> str:
    """A kind of run in words: `3 x 1024x1024 in bfloat16 on NVIDIA H200`."""
    height, width = kind["size"]
    words = f"{kind['batch']} x {height}x{width} in {kind['dtype']} on {kind['device']}"
    words += ", training" * (kind["mode"] == "training")
    return words + ", launched eagerly" * (kind["launch"] == "eager" and kind["device"] != "cpu")


def decide_before(run: Callable[[], object], model: nn.Module) -> None:
    """Calibrate a model with the `-auto` suffix on the first images that `run` gives it.

    Nothing happens where it was decided before.
    """
    if undecided(model):
        images = first_input(model, run)
        if images is not None:
            with_what_fits(lambda some: calibrate(model, some), images)


def _decide(
    backbone: MixVisionTransformer, images: Tensor, training: bool, graphs: bool
) -> list[StageDecision]:
    stages = []
    with stage_inputs(backbone, images) as inputs:
        for (_, blocks, _), given, merging in zip(
            backbone.layers, inputs, merging_of(backbone), strict=True
        ):
            plain = stage_seconds(blocks, given, NO_MERGING, training, graphs)
            merged = plain
            if merges(merging):
                merged = stage_seconds(blocks, given, merging, training, graphs)
            stages.append(StageDecision(merged < MARGIN * plain, merged, plain))
    _free(images.device)
    return stages


def _fits(name: str, num_stages: int) -> bool:
    """Whether a preset is for so many stages; of an unknown one `parse_tome_cfg` says so."""
    return name != "none" and len(PRESETS.get(name, range(num_stages))) == num_stages


def _name_of(merging: Sequence[StageMerging], num_stages: int) -> str:
    """The preset that merges so."""
    for name in PRESETS:
        if _fits(name, num_stages) and parse_tome_cfg(name, num_stages) == merging:
            return name
    return "the configured"


def _free(device: torch.device) -> None:
    """Give back what was allocated for timing alone: a training needs its memory for itself."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ms(value: float, digits: int = 2) -> str:
    return f"{value * 1e3:.{digits}f} ms"
