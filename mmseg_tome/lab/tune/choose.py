"""From what was tried to one plan: the most promising are timed for real, and one of them wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import probes
from .search import Tried
from .space import Plan

AT_ONCE = 6
"""Plans that are timed together; more only if none of these will do."""

MARGIN = 0.92
"""Share of the goal at which a predicted speed-up is worth timing: predictions err by some %."""


@dataclass(frozen=True)
class Goal:
    """What the user wants: one of these."""

    speedup: float | None = None  # at least this over no merging, at the least loss
    loss: float | None = None  # no more than this, at the greatest speed-up

    def promising(self, tried: Sequence[Tried]) -> list[Tried]:
        """Plans that may win by what is predicted, the most promising first."""
        if self.speedup is None:
            fitting = [t for t in tried if t.loss <= self.loss]
            return sorted(front(fitting), key=lambda t: -t.speedup)
        fitting = front([t for t in tried if t.speedup >= self.speedup * MARGIN])
        sure = sorted((t for t in fitting if t.speedup >= self.speedup), key=lambda t: t.loss)
        unsure = sorted((t for t in fitting if t.speedup < self.speedup), key=lambda t: -t.speedup)
        half = AT_ONCE // 2
        return [*sure[:half], *unsure[:half], *sure[half:]]

    def best(self, tried: Sequence[Tried], measured: Mapping[Plan, float]) -> Tried | None:
        """The winner among the plans with a measured speed-up, None if there is none."""
        timed = [t for t in tried if t.plan in measured]
        if self.speedup is None:
            fitting = [t for t in timed if t.loss <= self.loss and measured[t.plan] > 1]
            return max(fitting, key=lambda t: measured[t.plan], default=None)
        fitting = [t for t in timed if measured[t.plan] >= self.speedup]
        return min(fitting, key=lambda t: (t.loss, -measured[t.plan]), default=None)


def choose(
    goal: Goal,
    tried: Sequence[Tried],
    always: Sequence[Plan],
    measure: Callable[[list[Plan]], list[float]],
) -> tuple[Tried | None, dict[Plan, float]]:
    """Time what is promising until a plan meets the goal.

    Args:
        goal: What is wanted.
        tried: What was tried.
        always: Plans that are timed in any case, the presets.
        measure: Gives true speed-ups of plans, from one run.

    Returns:
        The winner, None if no plan meets the goal, and all measured speed-ups.
    """
    waiting = [t.plan for t in goal.promising(tried) if t.plan not in always]
    measured: dict[Plan, float] = {}
    batch = [*always, *waiting[:AT_ONCE]]
    while batch:
        waiting = [plan for plan in waiting if plan not in batch]
        measured |= dict(zip(batch, measure(batch), strict=True))
        if (winner := goal.best(tried, measured)) is not None:
            return winner, measured
        batch = waiting[:AT_ONCE]
    return None, measured


def front(tried: Sequence[Tried]) -> list[Tried]:
    """Those from which none is both faster, as predicted, and of less loss; the fastest first."""
    return probes.front(tried, lambda t: (-t.speedup, t.loss))
