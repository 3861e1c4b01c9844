"""What a sweep tries: merging settings, and where each stands in a sweep's curves.

Every sweep varies one thing around the presets `hq` and `fast`. A setting that belongs to several
(`hq` itself is a point of all) is one setting, and is evaluated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mmseg_tome.merging import PRESETS, parse_tome_cfg
from mmseg_tome.merging.config import SEQUENCES

TomeCfg = list[dict] | None


@dataclass(frozen=True, eq=False)
class Setting:
    """One way to run a trained backbone.

    Attributes:
        name: Names files and rows of tables.
        tome_cfg: What merges, as the backbone takes it; None merges nothing.
        down_sample: Whether the image is halved first.
    """

    name: str
    tome_cfg: TomeCfg = None
    down_sample: bool = False

    @cached_property
    def key(self) -> str:
        """Equal for settings that do the same, however they are written."""
        return repr((parse_tome_cfg(self.tome_cfg), self.down_sample))


@dataclass(frozen=True)
class Point:
    """A setting's place in a sweep.

    Attributes:
        sweep: Name of the sweep.
        line: The curve that it is on.
        value: What is varied there.
        setting: The setting.
    """

    sweep: str
    line: str
    value: float | str
    setting: Setting


NONE = Setting("none")
"""What every other setting is compared with."""

RATIOS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95)
LOCAL_RATIOS = (0.25, 0.5, 0.625, 0.75)
BESIDE_RATIOS = (0.375, 0.5625, 0.65625)
STRIDES = (2, 4, 8)
REUSES = (1, 2, 4, 8)
BASES = ("hq", "fast")


def _presets() -> Iterator[Point]:
    yield Point("preset", "presets", NONE.name, NONE)
    for name, tome_cfg in PRESETS.items():
        yield Point("preset", "presets", name, Setting(name, tome_cfg))


def _ratios() -> Iterator[Point]:
    """Queries and keys/values in turn, the other as in `hq`.

    A cell of 2x2 tokens keeps one of them, so no more than 0.75 can go; of 4x4 cells 0.9375.
    """
    lines = (
        ("queries, 4x4 cells", "hq", "q", (4, 4), RATIOS),
        ("keys/values, 2x2 cells", "hq", "kv", (2, 2), (0.2, 0.4, 0.6, 0.75)),
        ("keys/values, 4x4 cells", "hq", "kv", (4, 4), RATIOS),
        ("the same, proportional", "hq-prop", "kv", (4, 4), RATIOS),
    )
    for line, base, sequence, stride, ratios in lines:
        for ratio in ratios:
            tome_cfg = _replace(base, sequence, ratio=ratio, stride=stride)
            cell = f"-{stride[0]}x{stride[1]}" if sequence == "kv" else ""
            name = f"{sequence}{cell}-ratio-{ratio}{base.removeprefix('hq')}"
            yield Point("ratio", line, ratio, Setting(name, tome_cfg))


def _strides() -> Iterator[Point]:
    """Size of a matching cell, at the preset's ratio as far as the cell allows."""
    lines = (
        ("hq, queries", "hq", "q"),
        ("hq, keys/values", "hq", "kv"),
        ("fast, all", "fast", None),
    )
    for line, base, sequence in lines:
        for side in STRIDES:
            name = f"{line.replace(', ', '-').replace('keys/values', 'kv')}-cell-{side}x{side}"
            tome_cfg = _replace(base, sequence, stride=(side, side))
            yield Point("stride", line, f"{side}x{side}", Setting(name, tome_cfg))


def _stages() -> Iterator[Point]:
    """A preset in one stage at a time."""
    for base in BASES:
        for i in range(4):
            tome_cfg = [stage if i == j else {} for j, stage in enumerate(PRESETS[base])]
            yield Point("stage", base, str(i + 1), Setting(f"{base}-stage-{i + 1}", tome_cfg))


def _targets() -> Iterator[Point]:
    """Queries alone, keys and values alone, both: in the preset's stages, and in every stage."""
    for base in BASES:
        everywhere = [_mergers(base)] * 4
        for line, stages in ((base, PRESETS[base]), (f"{base}, every stage", everywhere)):
            for value, kept in (("q", ("q",)), ("kv", ("kv",)), ("both", SEQUENCES)):
                tome_cfg = [{s: stage[s] for s in kept if s in stage} for stage in stages]
                name = f"{line.replace(', every stage', '-everywhere')}-{value}"
                yield Point("target", line, value, Setting(name, tome_cfg))


def _reuses() -> Iterator[Point]:
    """How many blocks in a row share slot maps."""
    for base in BASES:
        for reuse in REUSES:
            tome_cfg = [stage | {"reuse": reuse} for stage in PRESETS[base]]
            yield Point("reuse", base, str(reuse), Setting(f"{base}-reuse-{reuse}", tome_cfg))


def _local() -> Iterator[Point]:
    """Local merging on its own: keys and values of every stage, or queries of the last two."""
    lines = (
        ("keys/values, 2x2 windows", "kv", (2, 2), LOCAL_RATIOS),
        ("keys/values, 4x4 windows", "kv", (4, 4), (*LOCAL_RATIOS, 0.9)),
        ("queries, 2x2 windows", "q", (2, 2), LOCAL_RATIOS),
    )
    for line, sequence, stride, ratios in lines:
        for proportional in (False, True) if sequence == "kv" else (False,):
            for ratio in ratios:
                how = {sequence: dict(mode="local", ratio=ratio, stride=stride)}
                if proportional:
                    how["proportional"] = True
                tome_cfg = [how] * 4 if sequence == "kv" else [{}, {}, how, how]
                ending = "-prop" if proportional else ""
                name = f"local-{sequence}-{stride[0]}x{stride[1]}-{ratio}{ending}"
                title = f"{line}, proportional" if proportional else line
                yield Point("local", title, ratio, Setting(name, tome_cfg))
    yield from _beside_pooled()


def _beside_pooled() -> Iterator[Point]:
    """Stage 3's keys and values merged beside queries that windows pool in stages 1 to 3."""
    pooled = {"q": dict(mode="n2d", stride=(2, 2))}
    for ending, more in (("", {}), ("-prop", {"proportional": True}),
                         ("-prop-reuse-4", {"proportional": True, "reuse": 4})):  # fmt: skip
        line = f"keys/values beside pooled queries{ending.replace('-', ' ')}"
        for ratio in BESIDE_RATIOS:
            third = pooled | {"kv": dict(mode="local", ratio=ratio, stride=(2, 2))} | more
            name = f"pooled-kv3-{ratio}{ending}"
            yield Point("local", line, ratio, Setting(name, [pooled, pooled, third, {}]))


def _local_stages() -> Iterator[Point]:
    """Half of the keys and values, or of the queries, in one stage at a time."""
    half = dict(mode="local", ratio=0.5, stride=(2, 2))
    for sequence, line in (("q", "queries"), ("kv", "keys/values")):
        for i in range(4):
            how = {sequence: half} | ({"proportional": True} if sequence == "kv" else {})
            tome_cfg = [how if i == j else {} for j in range(4)]
            name = f"local-{sequence}-stage-{i + 1}"
            yield Point("local-stage", line, str(i + 1), Setting(name, tome_cfg))


def _downsample() -> Iterator[Point]:
    yield Point("downsample", "presets", "downsample", Setting("downsample", down_sample=True))


SWEEPS: dict[str, Callable[[], Iterator[Point]]] = {
    "preset": _presets,
    "downsample": _downsample,
    "ratio": _ratios,
    "stride": _strides,
    "stage": _stages,
    "target": _targets,
    "reuse": _reuses,
    "local": _local,
    "local-stage": _local_stages,
}
"""The points of each sweep, by the name that `--vary` takes."""


def points(sweeps: Sequence[str] = tuple(SWEEPS)) -> list[Point]:
    """The points of sweeps; those that do the same share one `Setting`, named as a preset if any.

    Args:
        sweeps: Names in `SWEEPS`.
    """
    known: dict[str, Setting] = {}
    for point in (*_presets(), *_downsample()):  # their names go first
        known.setdefault(point.setting.key, point.setting)
    found = [point for sweep in sweeps for point in SWEEPS[sweep]()]
    return [
        Point(p.sweep, p.line, p.value, known.setdefault(p.setting.key, p.setting)) for p in found
    ]


def settings(sweeps: Sequence[str]) -> list[Setting]:
    """Every setting of these sweeps once, `none` first."""
    none = points(["preset"])[0].setting
    return list(dict.fromkeys([none, *(point.setting for point in points(sweeps))]))


def _replace(base: str, sequence: str | None, **changes) -> TomeCfg:
    """A preset with options of its mergers changed, of all or of those of one sequence."""
    changed = SEQUENCES if sequence is None else (sequence,)
    return [
        {key: value | changes if key in changed else value for key, value in stage.items()}
        for stage in PRESETS[base]
    ]


def _mergers(base: str) -> dict:
    """A preset's merger of each sequence."""
    return {s: next(stage[s] for stage in PRESETS[base] if s in stage) for s in SEQUENCES}
