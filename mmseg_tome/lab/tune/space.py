"""What is searched: for each stage a way to merge queries, one for keys and values, and reuse.

Ways have names such as `n2d-2x2` and `bsm-4x4-0.8-prop`: strategy, cell, ratio, and of keys and
values whether attention is proportional. The list is short, as `tools/sweep.py` showed what is
worth trying: queries merge at hardly any cost; keys and values are cheap in 2x2 cells; in 4x4 cells
they cost most around ratio 0.8 and less where every source goes, and little with proportional
attention; 8x8 cells are bad. Local merging is almost free to find and as close where attention is
proportional. Every preset is in the space.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mmseg_tome.lab.sweep.settings import Setting
from mmseg_tome.merging import PRESETS, parse_tome_cfg
from mmseg_tome.merging.config import SEQUENCES
from mmseg_tome.models import MixVisionTransformer

PLAIN = "none"
"""The way that merges nothing."""

WAYS: dict[str, dict] = {
    "n2d-2x2": dict(mode="n2d", stride=(2, 2)),
    "n2d-4x4": dict(mode="n2d", stride=(4, 4)),
    **{
        f"bsm-{side}x{side}-{ratio:g}": dict(mode="bsm", ratio=ratio, stride=(side, side))
        for side, ratios in ((2, (0.6, 0.75)), (4, (0.6, 0.8, 0.9, 0.9375)))
        for ratio in ratios
    },
    **{
        f"local-2x2-{ratio:g}": dict(mode="local", ratio=ratio, stride=(2, 2))
        for ratio in (0.25, 0.5, 0.625)
    },
    "local-4x4-0.75": dict(mode="local", ratio=0.75, stride=(4, 4)),
}
"""Each way's entry in a `tome_cfg`."""

PROPORTIONAL = "-prop"
"""Ends the name of a way to merge keys and values that counts each for all it stands for."""

_KEYS = ("bsm-2x2-0.6", "bsm-2x2-0.75", "bsm-4x4-0.9", "bsm-4x4-0.9375")
_LOCAL_KEYS = ("local-2x2-0.25", "local-2x2-0.5", "local-2x2-0.625", "local-4x4-0.75")
_QUERIES = ("bsm-4x4-0.6", "bsm-4x4-0.8", "bsm-4x4-0.9", "bsm-4x4-0.9375", "local-2x2-0.5")
CANDIDATES = {
    "q": ("n2d-2x2", "n2d-4x4", *_QUERIES),
    "kv": (
        "n2d-2x2",
        "n2d-4x4",
        *_KEYS,
        *(way + PROPORTIONAL for way in (*_KEYS, *_LOCAL_KEYS)),
    ),
}
"""The ways that are tried on each sequence. Cells of `n2d` are all of a size: `-prop` is idle."""

REUSES = (1, 2, 4, 8)


class Choice(NamedTuple):
    """How one stage merges: names of `WAYS` or `PLAIN`, and how many blocks share slot maps."""

    q: str = PLAIN
    kv: str = PLAIN
    reuse: int = 1

    def __str__(self) -> str:
        if self.q == self.kv == PLAIN:
            return PLAIN
        ways = [f"{s} {way}" for s, way in zip(SEQUENCES, self, strict=False) if way != PLAIN]
        return ", ".join(ways) + (f", reuse {self.reuse}" if self.reuse > 1 else "")


Plan = tuple[Choice, ...]
"""A choice for each stage."""


@dataclass(frozen=True)
class Space:
    """The plans of one backbone at one size of image.

    Attributes:
        ways: Per stage and sequence the ways that merge anything there, `PLAIN` first.
        reuses: Per stage how many blocks may share slot maps, 1 first.
    """

    ways: tuple[dict[str, tuple[str, ...]], ...]
    reuses: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, backbone: MixVisionTransformer, hw: tuple[int, int]) -> Space:
        """The space for images of `hw` pixels: grids smaller than a cell have less to choose."""
        ways = tuple(
            {
                sequence: (PLAIN, *(w for w in CANDIDATES[sequence] if _merges(w, sequence, grid)))
                for sequence, grid in zip(SEQUENCES, grids, strict=True)
            }
            for grids in backbone.grids(hw)
        )
        reuses = tuple(
            tuple(sorted({min(reuse, blocks) for reuse in REUSES}))
            for blocks in backbone.num_layers
        )
        return cls(ways, reuses)

    def restricted(self, kept: Collection[tuple[int, str, str]]) -> Space:
        """The space with these ways alone, each given by its stage, sequence and name."""
        ways = tuple(
            {
                s: tuple(way for way in names if way == PLAIN or (i, s, way) in kept)
                for s, names in stage.items()
            }
            for i, stage in enumerate(self.ways)
        )
        return replace(self, ways=ways)

    @property
    def plain(self) -> Plan:
        """The plan that merges nothing."""
        return (Choice(),) * len(self.ways)

    def choices(self, stage: int) -> list[Choice]:
        """Every choice of a stage, without or with the most reuse, `PLAIN` first."""
        found = (
            self.tidy(stage, Choice(q, kv, reuse))
            for q in self.ways[stage]["q"]
            for kv in self.ways[stage]["kv"]
            for reuse in (1, self.reuses[stage][-1])
        )
        return list(dict.fromkeys(found))

    def tidy(self, stage: int, choice: Choice) -> Choice:
        """The same choice in its one form: ways that merge nothing here and idle reuse go."""
        q, kv = (
            way if way in self.ways[stage][sequence] else PLAIN
            for sequence, way in zip(SEQUENCES, choice[:2], strict=True)
        )
        matches = any(way.startswith(("bsm", "local")) for way in (q, kv))
        return Choice(q, kv, min(choice.reuse, self.reuses[stage][-1]) if matches else 1)

    def presets(self) -> dict[str, Plan]:
        """Presets as plans; only for backbones with as many stages as presets have."""
        return {
            name: tuple(self.tidy(i, _choice_of(stage)) for i, stage in enumerate(stages))
            for name, stages in PRESETS.items()
            if len(stages) == len(self.ways)
        }

    def suggest(self, trial) -> Plan:
        """The plan of an Optuna trial."""
        return tuple(
            self.tidy(
                i,
                Choice(
                    trial.suggest_categorical(f"{i + 1} q", ways["q"]),
                    trial.suggest_categorical(f"{i + 1} kv", ways["kv"]),
                    trial.suggest_categorical(f"{i + 1} reuse", self.reuses[i]),
                ),
            )
            for i, ways in enumerate(self.ways)
        )

    def params(self, plan: Plan) -> dict[str, str | int]:
        """The parameters with which a trial suggests this plan."""
        return {
            f"{i} {field}": value
            for i, choice in enumerate(plan, start=1)
            for field, value in choice._asdict().items()
        }


def setting(plan: Plan, name: str = "plan") -> Setting:
    """A plan as the tools run it."""
    return Setting(name, tome_cfg(plan))


def tome_cfg(plan: Plan) -> list[dict]:
    """A plan as configs say it."""
    return [
        {s: _merger(way) for s, way in zip(SEQUENCES, choice, strict=False) if way != PLAIN}
        | ({"reuse": choice.reuse} if choice.reuse > 1 else {})
        | ({"proportional": True} if choice.kv.endswith(PROPORTIONAL) else {})
        for choice in plan
    ]


def describe(plan: Plan) -> str:
    """A plan for people: `stage 1: kv bsm-2x2-0.6; stage 2: ...`."""
    return "; ".join(f"stage {i}: {choice}" for i, choice in enumerate(plan, start=1))


def _merges(way: str, sequence: str, grid: tuple[int, int]) -> bool:
    (stage,) = parse_tome_cfg([{sequence: _merger(way)}], 1)
    return getattr(stage, sequence).num_slots(grid) < grid[0] * grid[1]


def _merger(way: str) -> dict:
    return WAYS[way.removesuffix(PROPORTIONAL)]


def _choice_of(stage: dict) -> Choice:
    q, kv = (_name(stage[s]) if s in stage else PLAIN for s in SEQUENCES)
    if kv.startswith(("bsm", "local")) and stage.get("proportional"):
        kv += PROPORTIONAL
    return Choice(q, kv, stage.get("reuse", 1))


def _name(merger: dict) -> str:
    return next(name for name, known in WAYS.items() if known == merger)


def as_plan(choices: Sequence[Sequence]) -> Plan:
    """A plan from what JSON keeps of it."""
    return tuple(Choice(*choice) for choice in choices)
