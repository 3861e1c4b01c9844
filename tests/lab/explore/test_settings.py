"""Controls and the `tome_cfg` they stand for."""

import pytest

from mmseg_tome.errors import UserError
from mmseg_tome.lab.explore.settings import (
    SequenceSetting,
    StageSetting,
    as_text,
    first_setting,
    make_tome_cfg,
    preset_of,
    read_settings,
)
from mmseg_tome.merging import PRESETS, TomeConfigError, parse_tome_cfg


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_by_its_name(name):
    assert make_tome_cfg(read_settings(name)) == name


def test_nothing_merges():
    assert make_tome_cfg(read_settings(None)) is None
    assert preset_of(None) == "none"
    assert as_text(None) == "tome_cfg=None"


def test_own_settings_come_back():
    stages = [
        StageSetting(kv=SequenceSetting("bsm", 0.6, "2x4"), proportional=True),
        StageSetting(q=SequenceSetting("n2d", window="4x1"), reuse=3),
        StageSetting(SequenceSetting("local", 0.5, "2x2"), SequenceSetting("tome", 0.25)),
        StageSetting(q=SequenceSetting("n1d", window="1x3")),
    ]
    tome_cfg = make_tome_cfg(stages)
    assert preset_of(tome_cfg) == "own"
    assert read_settings(tome_cfg) == stages
    text = as_text(tome_cfg)
    assert 'dict(kv=dict(mode="bsm", ratio=0.6, stride=(2, 4)), proportional=True),' in text
    copied = eval(f"dict({text})", {"dict": dict})["tome_cfg"]
    assert parse_tome_cfg(copied) == parse_tome_cfg(tome_cfg)


def test_a_stage_that_merges_nothing_says_nothing():
    assert make_tome_cfg([StageSetting(reuse=4, proportional=True)] * 4) is None


@pytest.mark.parametrize("window", ["0x2", "2", "2x", "a", "../etc", "2x1000"])
def test_a_window_that_is_none(window):
    with pytest.raises(UserError, match="ROWSxCOLUMNS"):
        make_tome_cfg([StageSetting(q=SequenceSetting("n2d", window=window))] * 4)


def test_a_ratio_that_is_none():
    with pytest.raises(TomeConfigError, match=r"stage 1, q.*ratio"):
        make_tome_cfg([StageSetting(q=SequenceSetting("bsm", 1.5))] * 4)


def test_what_the_page_begins_with():
    assert first_setting("fast-auto", "hq", 4) == read_settings("fast")
    assert first_setting(None, "hq", 4) == read_settings("hq")
