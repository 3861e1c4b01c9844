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
    """One way to run a trained backbone."""

    name: str  # of files and rows of tables
    tome_cfg: TomeCfg = None  # as the backbone takes it
    down_sample: bool = False  # whether the image is halved first

    @cached_property
    def key(self) -> str:
        """Equal for settings that do the same, however they are written."""
        return repr((parse_tome_cfg(self.tome_cfg), self.down_sample))


@dataclass(frozen=True)
class Point:
    """A setting's place in a sweep: on which curve, at which value of what is varied there."""

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
    for name, tome_cfg in {NONE.name: None, **PRESETS}.items():
        yield Point("preset", "presets", name, Setting(name, tome_cfg))


def _downsample() -> Iterator[Point]:
    yield Point("downsample", "presets", "downsample", Setting("downsample", down_sample=True))


def _ratios() -> Iterator[Point]:
    """Queries and keys/values in turn, the other as in `hq`.

    A cell of 2x2 tokens keeps one of them, so no more than 0.75 can go; of 4x4 cells 0.9375.
    """
    for line, name, base, sequence, side, ratios in (
        ("queries, 4x4 cells", "q-ratio-{}", "hq", "q", 4, RATIOS),
        ("keys/values, 2x2 cells", "kv-2x2-ratio-{}", "hq", "kv", 2, (0.2, 0.4, 0.6, 0.75)),
        ("keys/values, 4x4 cells", "kv-4x4-ratio-{}", "hq", "kv", 4, RATIOS),
        ("the same, proportional", "kv-4x4-ratio-{}-prop", "hq-prop", "kv", 4, RATIOS),
    ):
        for ratio in ratios:
            tome_cfg = _replace(base, (sequence,), ratio=ratio, stride=(side, side))
            yield Point("ratio", line, ratio, Setting(name.format(ratio), tome_cfg))


def _strides() -> Iterator[Point]:
    """Size of a matching cell, at the preset's ratio as far as the cell allows."""
    for line, name, base, sequences in (
        ("hq, queries", "hq-queries", "hq", ("q",)),
        ("hq, keys/values", "hq-kv", "hq", ("kv",)),
        ("fast, all", "fast-all", "fast", SEQUENCES),
    ):
        for side in STRIDES:
            tome_cfg = _replace(base, sequences, stride=(side, side))
            setting = Setting(f"{name}-cell-{side}x{side}", tome_cfg)
            yield Point("stride", line, f"{side}x{side}", setting)


def _stages() -> Iterator[Point]:
    """A preset in one stage at a time."""
    for base in BASES:
        for i, stage in enumerate(PRESETS[base]):
            yield Point("stage", base, str(i + 1), _in_stage(i, stage, base))


def _targets() -> Iterator[Point]:
    """Queries alone, keys and values alone, both: in the preset's stages, and in every stage."""
    for base in BASES:
        everywhere = {s: next(g[s] for g in PRESETS[base] if s in g) for s in SEQUENCES}
        for line, name, stages in (
            (base, base, PRESETS[base]),
            (f"{base}, every stage", f"{base}-everywhere", [everywhere] * 4),
        ):
            for value, kept in (("q", ("q",)), ("kv", ("kv",)), ("both", SEQUENCES)):
                tome_cfg = [{s: stage[s] for s in kept if s in stage} for stage in stages]
                yield Point("target", line, value, Setting(f"{name}-{value}", tome_cfg))


def _reuses() -> Iterator[Point]:
    """How many blocks in a row share slot maps."""
    for base in BASES:
        for reuse in REUSES:
            tome_cfg = [stage | {"reuse": reuse} for stage in PRESETS[base]]
            yield Point("reuse", base, str(reuse), Setting(f"{base}-reuse-{reuse}", tome_cfg))


def _local() -> Iterator[Point]:
    """Local merging on its own: keys and values of every stage, or queries of the last two.

    Then stage 3's keys and values beside queries that windows pool in stages 1 to 3.
    """
    for line, sequence, side, ratios, ending in (
        ("keys/values, 2x2 windows", "kv", 2, LOCAL_RATIOS, ""),
        ("keys/values, 2x2 windows, proportional", "kv", 2, LOCAL_RATIOS, "-prop"),
        ("keys/values, 4x4 windows", "kv", 4, (*LOCAL_RATIOS, 0.9), ""),
        ("keys/values, 4x4 windows, proportional", "kv", 4, (*LOCAL_RATIOS, 0.9), "-prop"),
        ("queries, 2x2 windows", "q", 2, LOCAL_RATIOS, ""),
    ):
        for ratio in ratios:
            how = _locally(sequence, ratio, side) | ({"proportional": True} if ending else {})
            tome_cfg = [how] * 4 if sequence == "kv" else [{}, {}, how, how]
            name = f"local-{sequence}-{side}x{side}-{ratio}{ending}"
            yield Point("local", line, ratio, Setting(name, tome_cfg))
    pooled = {"q": dict(mode="n2d", stride=(2, 2))}
    for ending, more in (("", {}), ("-prop", {"proportional": True}),
                         ("-prop-reuse-4", {"proportional": True, "reuse": 4})):  # fmt: skip
        line = f"keys/values beside pooled queries{ending.replace('-', ' ')}"
        for ratio in BESIDE_RATIOS:
            third = pooled | _locally("kv", ratio, 2) | more
            setting = Setting(f"pooled-kv3-{ratio}{ending}", [pooled, pooled, third, {}])
            yield Point("local", line, ratio, setting)


def _local_stages() -> Iterator[Point]:
    """Half of the keys and values, or of the queries, in one stage at a time."""
    for sequence, line, more in (
        ("q", "queries", {}),
        ("kv", "keys/values", {"proportional": True}),
    ):
        for i in range(4):
            setting = _in_stage(i, _locally(sequence, 0.5, 2) | more, f"local-{sequence}")
            yield Point("local-stage", line, str(i + 1), setting)


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
    """The points of sweeps; those that do the same share a `Setting`, named as a preset if any."""
    known: dict[str, Setting] = {}
    for point in (*_presets(), *_downsample()):  # their names go first
        known.setdefault(point.setting.key, point.setting)
    found = [point for sweep in sweeps for point in SWEEPS[sweep]()]
    return [
        Point(p.sweep, p.line, p.value, known.setdefault(p.setting.key, p.setting)) for p in found
    ]


def settings(sweeps: Sequence[str]) -> list[Setting]:
    """Every setting of these sweeps once, `none` first."""
    found = [NONE, *(point.setting for point in points(sweeps))]
    return list({setting.key: setting for setting in found}.values())


def _replace(base: str, sequences: Sequence[str], **changes) -> TomeCfg:
    """A preset with options of the mergers of some sequences changed."""
    return [
        {key: value | changes if key in sequences else value for key, value in stage.items()}
        for stage in PRESETS[base]
    ]


def _locally(sequence: str, ratio: float, side: int) -> dict:
    return {sequence: dict(mode="local", ratio=ratio, stride=(side, side))}


def _in_stage(i: int, how: dict, name: str) -> Setting:
    """Merging in one stage, counted from 0, alone."""
    return Setting(f"{name}-stage-{i + 1}", [how if i == j else {} for j in range(4)])
