"""What the page's controls say, as a `tome_cfg`, and the other way round."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

from mmseg_tome.errors import UserError
from mmseg_tome.merging.config import SEQUENCES, parse_tome_cfg, split_auto
from mmseg_tome.merging.presets import PRESETS
from mmseg_tome.merging.strategies import STRATEGIES, MergingStrategy
from mmseg_tome.merging.strategies.identity import Identity

NONE, OWN = "none", "own"
MODES = {
    NONE: "no merging",
    "bsm": "bsm: tokens most like one of each window",
    "local": "local: the most alike windows",
    "n2d": "n2d: all windows",
    "n1d": "n1d: runs of tokens",
    "tome": "tome: tokens most like a neighbour",
}
"""The modes that the page offers, and what they merge."""
WITH_RATIO, WITH_WINDOW = ("bsm", "local", "tome"), ("bsm", "local", "n2d", "n1d")
WINDOWS = ("1x2", "2x1", "2x2", "2x4", "4x2", "4x4", "8x8")

Merging = str | list[dict] | None
"""A `tome_cfg` that names a preset, or lists a dict for each stage."""


class SequenceSetting(NamedTuple):
    """Controls of a stage's queries, or of its keys and values.

    Attributes:
        mode: One of `MODES`.
        ratio: Fraction of the tokens to remove, where the mode is in `WITH_RATIO`.
        window: Rows and columns in tokens, such as "2x4", where it is in `WITH_WINDOW`; of n1d
            their product counts.
    """

    mode: str = NONE
    ratio: float = 0.8
    window: str = "2x2"


class StageSetting(NamedTuple):
    """Controls of a stage; `reuse` and `proportional` as in `StageMerging`."""

    q: SequenceSetting = SequenceSetting()
    kv: SequenceSetting = SequenceSetting()
    reuse: int = 1
    proportional: bool = False


def read_settings(tome_cfg: Merging, num_stages: int = 4) -> list[StageSetting]:
    """The controls that stand for a `tome_cfg`; the `-auto` suffix is left out.

    Raises:
        TomeConfigError: As `parse_tome_cfg`.
        UserError: It names a mode that the page does not offer.
    """
    return [
        StageSetting(_read(stage.q), _read(stage.kv), stage.reuse, stage.proportional)
        for stage in parse_tome_cfg(tome_cfg, num_stages)
    ]


def _read(strategy: MergingStrategy) -> SequenceSetting:
    if isinstance(strategy, Identity):
        return SequenceSetting()
    mode = next((mode for mode in MODES if STRATEGIES.get(mode) is type(strategy)), None)
    if mode is None:
        raise UserError(f"the page does not offer {type(strategy).__name__}: {', '.join(MODES)}")
    given = asdict(strategy)
    found = SequenceSetting(mode, given.get("ratio", SequenceSetting().ratio))
    if "stride" in given:
        stride = given["stride"]
        rows, cols = (1, stride) if isinstance(stride, int) else stride
        found = found._replace(window=f"{rows}x{cols}")
    return found


def make_tome_cfg(stages: Sequence[StageSetting]) -> Merging:
    """The `tome_cfg` that controls stand for: None if nothing merges, a preset's name if it is one.

    Raises:
        TomeConfigError: A value that a strategy refuses.
        UserError: A window that is none.
    """
    listed = [_stage(stage) for stage in stages]
    meant = parse_tome_cfg(listed, len(listed))
    if not any(listed):
        return None
    for name, preset in PRESETS.items():
        if len(preset) == len(listed) and parse_tome_cfg(name) == meant:
            return name
    return listed


def _stage(stage: StageSetting) -> dict:
    found = {
        name: _strategy(setting)
        for name, setting in zip(SEQUENCES, stage[:2], strict=True)
        if setting.mode != NONE
    }
    if found and stage.reuse != 1:
        found["reuse"] = stage.reuse
    if found and stage.proportional:
        found["proportional"] = True
    return found


def _strategy(setting: SequenceSetting) -> dict:
    found: dict = {"mode": setting.mode}
    if setting.mode in WITH_RATIO:
        found["ratio"] = setting.ratio
    if setting.mode in WITH_WINDOW:
        match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", str(setting.window))
        if match is None:
            raise UserError(f"window {setting.window!r} is not ROWSxCOLUMNS, such as 2x4")
        rows, cols = int(match[1]), int(match[2])
        found["stride"] = rows * cols if setting.mode == "n1d" else (rows, cols)
    return found


def preset_of(tome_cfg: Merging) -> str:
    """What the list of presets shows for a `tome_cfg`."""
    return tome_cfg if isinstance(tome_cfg, str) else NONE if tome_cfg is None else OWN


def as_text(tome_cfg: Merging) -> str:
    """A `tome_cfg` to be copied into a config, a line for each stage."""
    if not isinstance(tome_cfg, list):
        return f"tome_cfg={tome_cfg!r}".replace("'", '"')
    lines = "".join(f"    {_written(stage)},\n" for stage in tome_cfg)
    return f"tome_cfg=[\n{lines}]"


def _written(value: object) -> str:
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={_written(each)}' for key, each in value.items())})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def first_setting(tome_cfg: object, default: str, num_stages: int) -> list[StageSetting]:
    """What the page begins with: the model's own merging, or a default where it has none."""
    own = split_auto(tome_cfg)[0]
    return read_settings(default if own is None else own, num_stages)
