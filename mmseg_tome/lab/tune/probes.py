"""Probes: each stage by itself, what merging saves there and costs, and what that promises.

A stage takes milliseconds of a network's tens: measured alone, a few calls tell what in the whole
network drowns in noise. Every choice is timed in turns with its stage unmerged and kept as a ratio,
so that times of a busy machine, or of an earlier run, add up; a plan's time is predicted as their
sum. Losses of stages add up only roughly; as a guess at where to look this is far better than
chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mmseg_tome.lab.bench import measure
from mmseg_tome.lab.sweep.network import inference, move, with_setting
from mmseg_tome.lab.sweep.settings import NONE
from mmseg_tome.merging.config import SEQUENCES
from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.runtime.graphs import CudaGraphs, Graphed
from mmseg_tome.runtime.precision import DTYPES

from .space import PLAIN, Choice, Plan, Space, setting

ROUNDS = 7
MIN_SAMPLE_S = 0.02
"""Calls are repeated until a sample takes this long."""


class StageTimes:
    """Predicts times of plans from times of stages, each of which is measured once.

    `known` keeps what was measured: milliseconds, and of choices ratios, by name. The others are as
    for `time_settings`.
    """

    def __init__(
        self,
        model: nn.Module,
        space: Space,
        hw: tuple[int, int],
        batch: int,
        device: torch.device,
        dtype: str,
        known: MutableMapping[str, float],
        rounds: int = ROUNDS,
        launch: str = "auto",
    ) -> None:
        self.space, self.hw, self.batch = space, hw, batch
        self.device, self.dtype, self.rounds = device, dtype, rounds
        self.known, self.launch, self.model = known, launch, model
        move(model, device, dtype)
        if "ms whole" not in known:
            self._measure_unmerged()

    def predict(self, plan: Plan) -> float:
        """Milliseconds per image that a plan should take; times what is not timed yet."""
        saved = sum(self.stage_ms(i) * (1 - self.ratio(i, choice)) for i, choice in enumerate(plan))
        return self.known["ms whole"] - saved

    def speedup(self, plan: Plan) -> float:
        """Predicted speed-up over no merging."""
        return self.known["ms whole"] / self.predict(plan)

    def stage_ms(self, stage: int) -> float:
        """Milliseconds per image of a stage's blocks without merging."""
        return self.known[f"ms {stage + 1}"]

    def ratio(self, stage: int, choice: Choice) -> float:
        """Time of a stage under a choice over its time without merging."""
        if choice == Choice():
            return 1.0
        self.measure(stage, [choice])
        return self.known[_ratio_key(stage, choice)]

    def measure(self, stage: int, choices: Iterable[Choice]) -> None:
        """Time those of these choices that were not timed yet, in turns."""
        missing = [choice for choice in choices if _ratio_key(stage, choice) not in self.known]
        missing = [choice for choice in missing if choice != Choice()]
        if not missing:
            return
        plain, *merged = self._sample([self._stage(stage, c) for c in (Choice(), *missing)])
        for choice, samples in zip(missing, merged, strict=True):
            self.known[_ratio_key(stage, choice)] = _median_ratio(samples, plain)

    def _measure_unmerged(self) -> None:
        """Time the whole network and each stage in turns, all of them without merging."""
        stages = range(len(self.space.ways))
        plain = [self._stage(i, Choice()) for i in stages]
        whole, *parts = self._sample([self._whole(), *plain])
        ms = statistics.median(whole) / self.batch
        for i in stages:
            self.known[f"ms {i + 1}"] = ms * _median_ratio(parts[i], whole)
        self.known["ms whole"] = ms  # last: with it, the others are there

    def _sample(self, runs: list[tuple[Callable, Tensor]]) -> list[list[float]]:
        # Only one graph runs at a time: all share their memory.
        uses = [] if self.launch == "eager" else ["inference"]
        options = dict(uses=uses, patience=0, capture=CudaGraphs())
        forwards = [inference(Graphed(self.model, run, **options), x) for run, x in runs]
        for forward in forwards:
            forward()  # captures; index maps are cached
        return measure.time_in_turns(forwards, self.rounds, self.device, MIN_SAMPLE_S)

    def _whole(self) -> tuple[Callable, Tensor]:
        """The network without merging and its input."""
        network = with_setting(self.model, NONE)
        x = self._random(image_channels(network), *self.hw)
        return lambda x: network.decode_head(network.backbone(x)), x

    def _stage(self, stage: int, choice: Choice) -> tuple[Callable, Tensor]:
        """The blocks of a stage under a choice and their input."""
        plan = list(self.space.plain)
        plan[stage] = choice
        backbone = with_setting(self.model, setting(tuple(plan))).backbone
        blocks = backbone.layers[stage][1]
        hw, _ = backbone.grids(self.hw)[stage]
        channels = backbone.embed_dims * backbone.num_heads[stage]
        x = self._random(hw[0] * hw[1], channels)
        return lambda x: backbone._run_blocks(stage, blocks, x, hw), x

    def _random(self, *shape: int) -> Tensor:
        x = torch.randn(self.batch, *shape, generator=torch.Generator().manual_seed(0))
        return x.to(self.device, DTYPES.get(self.dtype, torch.float32))


def _median_ratio(samples: list[float], base: list[float]) -> float:
    """Of samples of the same round: what slows a machine for a while slows both."""
    return statistics.median(a / b for a, b in zip(samples, base, strict=True))


def _ratio_key(stage: int, choice: Choice) -> str:
    return f"ratio {stage + 1}: {choice}"


class Guess(NamedTuple):
    """A plan, or its first stages, with what they promise."""

    ms: float  # per image that are saved, negated
    loss: float  # sum of the losses of its parts
    plan: Plan


def probes(space: Space) -> list[tuple[int, Choice]]:
    """Stage and choice of every probe: each way alone, bipartite ones also with full reuse."""
    return [
        (stage, choice)
        for stage in range(len(space.ways))
        for choice in space.choices(stage)
        if (choice.q == PLAIN) != (choice.kv == PLAIN)
    ]


def pruned(space: Space, times: StageTimes, advance: Callable[[str], None]) -> Space:
    """Time every probe; what is left of a space without ways that save nothing in any form.

    The ways of presets stay, so that presets can be tried. `advance` is called for each stage.
    """
    kept = {(i, s, getattr(plan[i], s)) for plan in space.presets().values()
            for i in range(len(plan)) for s in SEQUENCES}  # fmt: skip
    for stage in range(len(space.ways)):
        choices = [choice for at, choice in probes(space) if at == stage]
        times.measure(stage, choices)
        for choice in choices:
            if times.ratio(stage, choice) < 1:
                kept |= {(stage, s, getattr(choice, s)) for s in SEQUENCES}
        advance(f"stage {stage + 1}: {times.stage_ms(stage):.1f} ms without merging")
    return space.restricted(kept)


def probe(
    space: Space,
    times: StageTimes,
    loss: Callable[[Plan], dict],
    known: MutableMapping[str, float],
    advance: Callable[[str], None],
) -> None:
    """Measure what every probe that saves time costs, as far as `known` does not hold it."""
    for stage, choice in worthwhile(space, times):
        key = _loss_key(stage, choice)
        if key not in known:
            plan = list(space.plain)
            plan[stage] = choice
            known[key] = loss(tuple(plan))["loss"]
        saved = times.stage_ms(stage) * (1 - times.ratio(stage, choice))
        advance(f"stage {stage + 1}, {choice}: loss {known[key]:.2f}, saves {saved:.2f} ms")


def worthwhile(space: Space, times: StageTimes) -> list[tuple[int, Choice]]:
    """The probes that save time."""
    return [(stage, choice) for stage, choice in probes(space) if times.ratio(stage, choice) < 1]


def table(space: Space, times: StageTimes, known: MutableMapping[str, float]) -> list[dict]:
    """The probes as plain values: what each costs alone, and which part of the time it saves."""
    whole = times.predict(space.plain)
    return [
        dict(
            stage=stage + 1,
            **choice._asdict(),
            loss=round(known[_loss_key(stage, choice)], 4),
            saved_percent=round(
                100 * times.stage_ms(stage) * (1 - times.ratio(stage, choice)) / whole, 2
            ),
        )
        for stage, choice in worthwhile(space, times)
    ]


def guesses(space: Space, times: StageTimes, known: MutableMapping[str, float]) -> list[Guess]:
    """Plans from which nothing is both faster and cheaper by the probes, the fastest first."""

    def costs(guess: Guess) -> tuple[float, float]:
        return guess[:2]

    best = [Guess(0.0, 0.0, ())]
    for stage in range(len(space.ways)):
        found = (_guess(stage, choice, times, known) for choice in space.choices(stage))
        found = front([guess for guess in found if guess is not None], costs)
        joined = [
            Guess(*(a + b for a, b in zip(first, more, strict=True)))
            for first in best
            for more in found
        ]
        best = front(joined, costs)
    return best


Item = TypeVar("Item")


def front(items: Sequence[Item], key: Callable[[Item], tuple[float, float]]) -> list[Item]:
    """Those from which no other is less in both values of `key`, by the first of these."""
    found: list[Item] = []
    for item in sorted(items, key=key):
        if not found or key(item)[1] < key(found[-1])[1]:
            found.append(item)
    return found


def _guess(
    stage: int, choice: Choice, times: StageTimes, known: MutableMapping[str, float]
) -> Guess | None:
    """What a choice promises; None if a part of it saves nothing."""
    ms = loss = 0.0
    for alone in (choice._replace(kv=PLAIN), choice._replace(q=PLAIN)):
        alone = times.space.tidy(stage, alone)
        if alone != Choice():
            if times.ratio(stage, alone) >= 1:
                return None
            ms -= times.stage_ms(stage) * (1 - times.ratio(stage, alone))
            loss += max(known[_loss_key(stage, alone)], 0)
    return Guess(ms, loss, (choice,))


def _loss_key(stage: int, choice: Choice) -> str:
    return f"loss {stage + 1}: {choice}"
