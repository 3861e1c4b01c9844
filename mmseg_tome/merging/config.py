"""Reading a `tome_cfg` into merging strategies: the only place that knows its forms.

A `tome_cfg` is None (no merging), the name of a preset, or a list with one dict per stage:

    dict(q=dict(mode="bsm", ratio=0.8, stride=(4, 4)), kv=None)          # ours
    dict(q_mode="bsm", q_r=0.8, q_sx=4, q_sy=4, kv_mode=None)            # the authors'

Modes are those of `merging.strategies`: bsm, tome, n2d, n1d, local and none; the authors' form
knows bsm, n2d and n1d.

Either form may add `reuse=k`: every k-th block of the stage matches, the next k - 1 reuse its slot
maps. The paper matches in every block: `reuse=1`, the default.

`proportional=True` beside them lets a merged key count for as many keys as it stands for in
attention (ToMe, arXiv 2210.09461, section 3.2). SegFormer++ counts each merged key once, which is
the default.

`"<preset>-auto"`, or `dict(auto=<any of the above>)`, merges a stage only where that saves time.

"none" is accepted wherever None is (stage, queries, keys and values), for command lines and YAML.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import NamedTuple

from mmseg_tome.errors import UserError
from mmseg_tome.merging.presets import PRESETS
from mmseg_tome.merging.strategies import STRATEGIES, MergingStrategy
from mmseg_tome.merging.strategies.identity import Identity

AUTO = "-auto"
"""Suffix of a preset's name: merge only in stages where that saves time."""

NONE = "none"
"""Alias of None."""

SEQUENCES = ("q", "kv")
"""What a stage can merge: the queries, the keys and values."""


_OF_A_STAGE = ("reuse", "proportional")


class TomeConfigError(UserError, ValueError):
    """A `tome_cfg` that cannot be read; the message names the stage and what is allowed."""


class StageMerging(NamedTuple):
    """How one stage merges.

    Attributes:
        q: Strategy of the queries.
        kv: Strategy of the keys and values.
        reuse: How many blocks in a row share their slot maps, at least 1.
        proportional: Whether a merged key counts for as many keys as it stands for.
    """

    q: MergingStrategy
    kv: MergingStrategy
    reuse: int = 1
    proportional: bool = False


def split_auto(tome_cfg: str | Mapping | Sequence | None) -> tuple[str | Sequence | None, bool]:
    """Split `-auto`, or `dict(auto=...)`, off a `tome_cfg`: the rest, and whether it was there.

    Raises:
        TomeConfigError: A dict that is not `dict(auto=...)`.
    """
    if isinstance(tome_cfg, str):
        auto = tome_cfg.endswith(AUTO)
        return _none_to_none(tome_cfg.removesuffix(AUTO)), auto
    if isinstance(tome_cfg, Mapping):
        if list(tome_cfg) != ["auto"]:
            raise TomeConfigError(
                f"tome_cfg as a dict must be dict(auto=...), got {dict(tome_cfg)!r}"
            )
        return _none_to_none(tome_cfg["auto"]), True
    return tome_cfg, False


def parse_tome_cfg(
    tome_cfg: str | Mapping | Sequence | None, num_stages: int = 4
) -> list[StageMerging]:
    """Turn a `tome_cfg` into the strategies of each stage.

    Args:
        tome_cfg: None, a preset's name, or one dict per stage (see the module's docstring). The
            `-auto` suffix is ignored here, see `split_auto`.
        num_stages: Number of stages of the backbone.

    Raises:
        TomeConfigError: Unknown preset, mode or key, wrong number of stages, or a value that
            the strategy refuses.
    """
    tome_cfg, _ = split_auto(tome_cfg)
    if tome_cfg is None:
        return [StageMerging(Identity(), Identity())] * num_stages
    if isinstance(tome_cfg, str):
        if tome_cfg not in PRESETS:
            raise TomeConfigError(
                f"unknown preset {tome_cfg!r} in tome_cfg; {_allowed(PRESETS)}, each with or "
                f"without {AUTO!r}, or {NONE!r}"
            )
        tome_cfg = PRESETS[tome_cfg]
    if not isinstance(tome_cfg, Sequence) or isinstance(tome_cfg, bytes):
        raise TomeConfigError(
            "tome_cfg must be None, a preset's name or a list with one dict per stage, "
            f"got {type(tome_cfg).__name__}"
        )
    if len(tome_cfg) != num_stages:
        raise TomeConfigError(
            f"tome_cfg has {len(tome_cfg)} entries, the backbone has {num_stages} stages: "
            "give one dict per stage, dict() for a stage without merging"
        )
    return [_parse_stage(cfg, f"tome_cfg, stage {i}") for i, cfg in enumerate(tome_cfg, start=1)]


def parse_without_auto(
    tome_cfg: str | Mapping | Sequence | None, num_stages: int = 4
) -> list[StageMerging]:
    """`parse_tome_cfg` for a backbone that cannot choose by time where to merge.

    Raises:
        TomeConfigError: As there, and for the `-auto` suffix.
    """
    if split_auto(tome_cfg)[1]:
        raise TomeConfigError(
            f"tome_cfg {tome_cfg!r}: only mmseg_tome.MixVisionTransformer can choose by time where "
            "to merge; here give the preset or the list itself"
        )
    return parse_tome_cfg(tome_cfg, num_stages)


def _parse_stage(cfg: Mapping | None, where: str) -> StageMerging:
    cfg = _none_to_none(cfg)
    if cfg is None:
        cfg = {}
    if not isinstance(cfg, Mapping):
        raise TomeConfigError(f"{where}: expected a dict, got {cfg!r}")
    cfg = dict(cfg)
    reuse = cfg.pop("reuse", 1)
    if type(reuse) is not int or reuse < 1:
        raise TomeConfigError(f"{where}: reuse must be an integer from 1 on, got {reuse!r}")
    proportional = cfg.pop("proportional", False)
    if type(proportional) is not bool:
        raise TomeConfigError(f"{where}: proportional must be True or False, got {proportional!r}")
    if any(str(key).startswith(tuple(f"{s}_" for s in SEQUENCES)) for key in cfg):
        cfg = _from_flat_keys(cfg, where)
    _check_keys(cfg, SEQUENCES, where, also=_OF_A_STAGE)
    q, kv = (_parse_strategy(cfg.get(s), f"{where}, {s}") for s in SEQUENCES)
    return StageMerging(q, kv, reuse, proportional)


def _parse_strategy(cfg: Mapping | None, where: str) -> MergingStrategy:
    cfg = _none_to_none(cfg)
    if cfg is None:
        return Identity()
    if not isinstance(cfg, Mapping) or "mode" not in cfg:
        raise TomeConfigError(f"{where}: expected None or a dict with a 'mode', got {cfg!r}")
    options = {key: _as_tuple(value) for key, value in cfg.items() if key != "mode"}
    strategy = _lookup_mode(cfg["mode"], where)
    where = f"{where}, mode {cfg['mode']!r}"
    known = fields(strategy)  # type: ignore[arg-type]  # register_strategy: a dataclass
    _check_keys(options, [field.name for field in known], where)
    required = [field.name for field in known if field.default is MISSING]
    if missing := [repr(name) for name in required if name not in options]:
        raise TomeConfigError(f"{where}: missing key {', '.join(missing)}")
    try:
        return strategy(**options)
    except (TypeError, ValueError) as error:
        raise TomeConfigError(f"{where}: {error}") from None


_FLAT_KEYS = {
    "bsm": {"r": "ratio", "sx": "stride", "sy": "stride"},
    "n2d": {"s": "stride"},
    "n1d": {"s": "stride"},
}
"""For each mode of the authors' configs: their keys, without prefix, and our names."""


def _from_flat_keys(cfg: Mapping, where: str) -> dict:
    """Translate the authors' `q_mode`, `q_r`, `q_sx`, `q_sy`, `q_s` and the same of `kv`."""
    known = [f"{s}_{key}" for s in SEQUENCES for key in ("mode", "r", "sx", "sy", "s")]
    _check_keys(cfg, known, where, also=_OF_A_STAGE)
    nested = {}
    for s in SEQUENCES:
        mode = _none_to_none(cfg.get(f"{s}_mode"))
        if mode is None:  # the authors ignore the other keys then
            continue
        if not isinstance(mode, str) or mode not in _FLAT_KEYS:
            raise TomeConfigError(f"{where}: unknown {s}_mode {mode!r}; {_allowed(_FLAT_KEYS)}")
        given = {key: cfg[f"{s}_{key}"] for key in _FLAT_KEYS[mode] if f"{s}_{key}" in cfg}
        missing = [f"{s}_{key}" for key in _FLAT_KEYS[mode] if key not in given]
        if missing:
            raise TomeConfigError(f"{where}: {s}_mode {mode!r} also needs {', '.join(missing)}")
        if mode == "bsm":
            nested[s] = {"ratio": given["r"], "stride": (given["sy"], given["sx"])}
        else:
            stride = _as_tuple(given["s"])
            pair = mode == "n2d" and isinstance(stride, int)
            nested[s] = {"stride": (stride, stride) if pair else stride}
        nested[s]["mode"] = mode
    return nested


def _lookup_mode(mode: str, where: str) -> type[MergingStrategy]:
    if not isinstance(mode, str) or mode not in STRATEGIES:
        raise TomeConfigError(f"{where}: unknown mode {mode!r}; {_allowed(STRATEGIES)}")
    return STRATEGIES[mode]


def _check_keys(cfg: Mapping, allowed: Sequence[str], where: str, also: Sequence[str] = ()) -> None:
    """Raise TomeConfigError for keys that are not `allowed`; `also` are those read before."""
    unknown = [repr(key) for key in cfg if key not in allowed]
    if unknown:
        raise TomeConfigError(
            f"{where}: unknown key {', '.join(unknown)}; {_allowed([*allowed, *also])}"
        )


def _none_to_none(cfg):
    return None if isinstance(cfg, str) and cfg.lower() == NONE else cfg


def merges(tome_cfg: str | Mapping | Sequence | None) -> bool:
    """Whether a `tome_cfg` asks for any merging; it need not be readable."""
    try:
        tome_cfg, _ = split_auto(tome_cfg)
    except TomeConfigError:
        return True
    return tome_cfg is not None


def _allowed(names: Iterable[str]) -> str:
    return "allowed: " + (", ".join(sorted(names)) or "no key")


def _as_tuple(value):
    """Lists, as JSON and YAML configs have them, become the tuples that strategies take."""
    return tuple(value) if isinstance(value, list) else value
