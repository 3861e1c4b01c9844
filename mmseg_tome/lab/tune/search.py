"""The search: plans of Optuna, each with its predicted time and its true loss, kept in a journal.

All that was measured is in one journal: trials, probes and times. A search that was interrupted
goes on, and one with more trials or another target starts from what is known.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mmseg_tome.errors import UserError

from . import probes
from .images import Loss
from .probes import StageTimes
from .space import Plan, Space, as_plan

JOURNAL = "journal.log"


@dataclass(frozen=True)
class Tried:
    """A plan that was tried."""

    plan: Plan
    speedup: float  # predicted, over no merging
    scores: dict[str, float]  # `loss`, `agreement`, with labels `mIoU`, on the search's images

    @property
    def loss(self) -> float:
        """What is minimised."""
        return self.scores["loss"]


class Known(UserDict):
    """Numbers by name, kept in a study's journal."""

    def __init__(self, study: optuna.Study) -> None:
        super().__init__()
        self.study, self.data = study, dict(study.user_attrs)

    def __setitem__(self, key: str, value: float) -> None:
        self.study.set_user_attr(key, value)
        self.data[key] = value


class Search:
    """A study of the plans of one network on one set of images."""

    def __init__(
        self, study: optuna.Study, space: Space, times: StageTimes, loss: Loss, known: Known
    ) -> None:
        self.study, self.space, self.times, self.loss = study, space, times, loss
        self.known = known

    def first_plans(self, goal: float | None, number: int) -> list[Plan]:
        """No merging, the presets, then about `number` plans that the probes promise.

        Half of these lie around the speed-up `goal`; without one, all are spread.
        """
        guessed = [guess.plan for guess in probes.guesses(self.space, self.times, self.known)]
        near = []
        if goal is not None:
            near = sorted(guessed, key=lambda plan: abs(self.times.speedup(plan) / goal - 1.02))
            near = near[: number // 2]
        wide = spread(guessed, number - len(near))
        first = [self.space.plain, *self.space.presets().values(), *near, *wide]
        return list(dict.fromkeys(first))

    def run(self, first: Sequence[Plan], trials: int, advance: Callable[[str], None]) -> None:
        """Go on until there are this many trials in all, beginning with the plans of `first`.

        These are tried even if they are more; `advance` is called after each.
        """
        number = self.missing(first, trials)
        for plan in self._untried(first):
            self.study.enqueue_trial(self.space.params(plan))

        def tell(study, trial) -> None:
            speedup, loss = 1 / trial.values[0], trial.values[1]
            advance(f"{speedup:.2f}x, loss {loss:.3f}")

        self.study.optimize(self._objective, n_trials=number, callbacks=[tell])

    def missing(self, first: Sequence[Plan], trials: int) -> int:
        """How many trials `run` will do."""
        return max(trials - len(self._completed()), len(self._untried(first)))

    def _untried(self, plans: Sequence[Plan]) -> list[Plan]:
        done = {tried.plan for tried in self.tried()}
        return [plan for plan in plans if plan not in done]

    def tried(self) -> list[Tried]:
        """Every plan that was tried, once."""
        found = {}
        for trial in self._completed():
            plan = as_plan(trial.user_attrs["plan"])
            found[plan] = Tried(plan, self.times.speedup(plan), trial.user_attrs["scores"])
        return list(found.values())

    def _completed(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])

    @cached_property
    def _scores(self) -> dict[Plan, dict]:
        return {tried.plan: tried.scores for tried in self.tried()}

    def _objective(self, trial: optuna.Trial) -> tuple[float, float]:
        plan = self.space.suggest(trial)
        if plan not in self._scores:
            self._scores[plan] = self.loss(plan)
        trial.set_user_attr("plan", plan)
        trial.set_user_attr("scores", self._scores[plan])
        return 1 / self.times.speedup(plan), self._scores[plan]["loss"]


def open_study(out: Path, name: str, seed: int) -> optuna.Study:
    """The study of this name in a folder's journal, made if it is not there.

    The name depends on all that a trial's values do; `seed` is the sampler's.

    Raises:
        UserError: The journal cannot be read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = out / JOURNAL
    try:
        out.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            storage=storage, study_name=name, load_if_exists=True, directions=["minimize"] * 2
        )
        # An interrupted run leaves trials behind that nobody will finish, or begin.
        left = study.get_trials(deepcopy=False, states=[TrialState.RUNNING, TrialState.WAITING])
        for trial in left:
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot use {path}: {error} (another --out begins anew)") from None
    # A sampler that goes on must not draw what it drew before.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def spread(items: Sequence, number: int) -> list:
    """At most `number` of the items, evenly spread, the first and the last among them."""
    if number >= len(items):
        return list(items)
    if number < 2:
        return list(items[:number])
    return [items[round(i * (len(items) - 1) / (number - 1))] for i in range(number)]
