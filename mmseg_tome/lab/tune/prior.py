"""What probes of single stages promise: plans that should lie on the front, to be tried first.

One sequence of one stage merges at a time. Losses of stages add up only roughly, and so do
times; as a guess at where to look this is far better than chance.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import NamedTuple

from mmseg_tome.merging.config import SEQUENCES

from .costs import StageTimes
from .space import PLAIN, Choice, Plan, Space


class Guess(NamedTuple):
    """A plan, or its first stages, with what they promise.

    Attributes:
        ms: Time per image that is saved, negated.
        loss: Sum of the losses of its parts.
        plan: A choice for each stage.
    """

    ms: float
    loss: float
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
        key = _key(stage, choice)
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
            loss=round(known[_key(stage, choice)], 4),
            saved_percent=round(
                100 * times.stage_ms(stage) * (1 - times.ratio(stage, choice)) / whole, 2
            ),
        )
        for stage, choice in worthwhile(space, times)
    ]


def guesses(space: Space, times: StageTimes, known: MutableMapping[str, float]) -> list[Guess]:
    """Plans from which nothing is both faster and cheaper by the probes, the fastest first."""
    front = [Guess(0.0, 0.0, ())]
    for stage in range(len(space.ways)):
        options = (_guess(stage, choice, times, known) for choice in space.choices(stage))
        options = non_dominated([guess for guess in options if guess is not None])
        front = non_dominated(
            [
                Guess(first.ms + more.ms, first.loss + more.loss, first.plan + more.plan)
                for first in front
                for more in options
            ]
        )
    return front


def non_dominated(found: list[Guess]) -> list[Guess]:
    """Those from which no other is both faster and cheaper, the fastest first."""
    front: list[Guess] = []
    for guess in sorted(found, key=lambda guess: guess[:2]):
        if not front or guess.loss < front[-1].loss:
            front.append(guess)
    return front


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
            loss += max(known[_key(stage, alone)], 0)
    return Guess(ms, loss, (choice,))


def _key(stage: int, choice: Choice) -> str:
    return f"loss {stage + 1}: {choice}"
