import pytest

from mmseg_tome.merging import (
    PRESETS,
    AlternatingMatching,
    BipartiteMatching,
    Identity,
    NeighbourMerging1D,
    NeighbourMerging2D,
    TomeConfigError,
    merges,
    parse_tome_cfg,
    register_strategy,
    split_auto,
)
from mmseg_tome.merging.strategies import STRATEGIES

NONE = Identity()


def test_presets_are_the_published_settings():
    kv, q = BipartiteMatching(0.6, (2, 2)), BipartiteMatching(0.8, (4, 4))
    assert parse_tome_cfg("hq") == [
        (NONE, kv, 1, False),
        (NONE, kv, 1, False),
        (q, NONE, 1, False),
        (q, NONE, 1, False),
    ]
    both = BipartiteMatching(0.9, (4, 4))
    kv, q = (NONE, both, 1, False), (both, NONE, 1, False)
    assert parse_tome_cfg("fast") == [kv, kv, q, q]
    assert parse_tome_cfg("n2d") == [(NeighbourMerging2D((2, 2)), NONE, 1, False)] * 4


@pytest.mark.parametrize("name", ["hq", "fast"])
def test_turbo_presets_differ_from_the_published_in_reuse_alone(name):
    published, turbo = parse_tome_cfg(name), parse_tome_cfg(f"{name}-turbo")
    assert [stage[:2] for stage in turbo] == [stage[:2] for stage in published]
    assert {stage.reuse for stage in turbo} == {4}


@pytest.mark.parametrize("name", ["hq", "fast", "hq-turbo", "fast-turbo"])
def test_proportional_presets_differ_in_that_alone(name):
    weighted = parse_tome_cfg(f"{name}-prop")
    assert all(stage.proportional for stage in weighted)
    assert [stage._replace(proportional=False) for stage in weighted] == parse_tome_cfg(name)


@pytest.mark.parametrize(
    "tome_cfg",
    [
        None,
        "none",
        "None",
        "none-auto",
        {"auto": "none"},
        {"auto": None},
        [{}, {}, {}, {}],
        [None, {}, {"q": None}, {}],
        ["none", {}, {"q": "none", "kv": "none"}, {"q_mode": "none", "q_r": 0.5}],
    ],
)
def test_no_merging(tome_cfg):
    assert parse_tome_cfg(tome_cfg) == [(NONE, NONE, 1, False)] * 4


def test_whether_anything_is_to_merge():
    for tome_cfg in (None, "none", "none-auto", {"auto": None}, {"auto": "none"}):
        assert not merges(tome_cfg)
    for tome_cfg in ("hq", "hq-auto", {"auto": "hq"}, [{}] * 4, {"unknown": 1}):
        assert merges(tome_cfg)


@pytest.mark.parametrize("base", ["'hq'", "dict(auto='hq')", "[dict(q=None)] * 4"])
@pytest.mark.parametrize("none", ["'none'", "None"])
def test_none_is_inherited_over_anything(base, none, tmp_path):
    Config = pytest.importorskip("mmengine.config").Config
    (tmp_path / "base.py").write_text(f"model = dict(backbone=dict(tome_cfg={base}))")
    (tmp_path / "mine.py").write_text(
        f"_base_ = 'base.py'\nmodel = dict(backbone=dict(tome_cfg={none}))"
    )
    assert not merges(Config.fromfile(tmp_path / "mine.py").model.backbone.tome_cfg)
    cfg = Config.fromfile(tmp_path / "base.py")
    cfg.merge_from_dict({"model.backbone.tome_cfg": "none"})
    assert not merges(cfg.model.backbone.tome_cfg)


def test_nested_form():
    stage = {
        "q": {"mode": "tome", "ratio": 0.25},
        "kv": {"mode": "bsm", "ratio": 0.5, "stride": [2, 3]},
    }
    expected = (AlternatingMatching(0.25), BipartiteMatching(0.5, (2, 3)), 1, False)
    assert parse_tome_cfg([stage], num_stages=1) == [expected]


@pytest.mark.parametrize(
    ("flat", "q", "kv"),
    [
        (dict(kv_mode="bsm", kv_r=0.6, kv_sx=2, kv_sy=3), NONE, BipartiteMatching(0.6, (3, 2))),
        (dict(q_mode="n2d", q_s=(2, 3)), NeighbourMerging2D((2, 3)), NONE),
        (dict(q_mode="n2d", q_s=2), NeighbourMerging2D((2, 2)), NONE),
        (dict(q_mode="n1d", q_s=4, kv_mode=None), NeighbourMerging1D(4), NONE),
        (dict(q_mode=None, q_r=0.5), NONE, NONE),
    ],
)
def test_flat_keys_of_the_authors_configs(flat, q, kv):
    assert parse_tome_cfg([flat], num_stages=1) == [(q, kv, 1, False)]
    assert parse_tome_cfg([flat | dict(reuse=3)], num_stages=1) == [(q, kv, 3, False)]


@pytest.mark.parametrize(
    ("tome_cfg", "message"),
    [
        ("hd", "unknown preset 'hd' in tome_cfg; allowed: fast, fast-prop, fast-turbo, "),
        ("hd-auto", "unknown preset 'hd'"),
        ({"q": {}}, r"must be dict\(auto=...\), got {'q': {}}"),
        (7, "must be None, a preset's name or a list"),
        ([{}, {}], "has 2 entries, the backbone has 4 stages"),
        ([{}, "hq", {}, {}], "stage 2: expected a dict, got 'hq'"),
        ([{}, {"k": {}}, {}, {}], "stage 2: unknown key 'k'; allowed: kv, proportional, q, reuse"),
        ([{"proportional": 1}, {}, {}, {}], "stage 1: proportional must be True or False, got 1"),
        ([{"reuse": 0}, {}, {}, {}], "stage 1: reuse must be an integer from 1 on, got 0"),
        ([{"q": {"mode": "bms"}}, {}, {}, {}], "stage 1, q: unknown mode 'bms'; allowed: bsm,"),
        ([{"q": {"ratio": 0.5}}, {}, {}, {}], "stage 1, q: expected None or a dict with a 'mode'"),
        (
            [{}, {}, {"q": {"mode": "bsm", "ratio": 1.5}}, {}],
            r"stage 3, q, mode 'bsm': ratio must be a number in \[0, 1\), got 1.5",
        ),
        (
            [{"kv": {"mode": "n2d", "ratio": 0.5}}, {}, {}, {}],
            "stage 1, kv, mode 'n2d': unknown key 'ratio'; allowed: stride",
        ),
        ([{"kv": {"mode": "bsm"}}, {}, {}, {}], "stage 1, kv, mode 'bsm': .*missing.*'ratio'"),
        # These names in the authors' tome_presets.py silently merge nothing there.
        ([{"q_mode": "bsm_r2D"}, {}, {}, {}], "stage 1: unknown q_mode 'bsm_r2D'; allowed: bsm"),
        ([{"q_mode": "bsm", "q_r": 0.5}, {}, {}, {}], "stage 1: .* also needs q_sx, q_sy"),
        ([{"q_mode": "n2d", "q_stride": 2}, {}, {}, {}], "unknown key 'q_stride'"),
    ],
)
def test_errors_name_the_stage_and_what_is_allowed(tome_cfg, message):
    with pytest.raises(TomeConfigError, match=message):
        parse_tome_cfg(tome_cfg)


@pytest.mark.parametrize("stages", ["fast", "hq-turbo", [dict()] * 4, None])
def test_the_wish_for_automatic_choice_leaves_the_strategies(stages):
    assert split_auto(stages) == (stages, False)
    given = [dict(auto=stages)] + ([f"{stages}-auto"] if isinstance(stages, str) else [])
    for tome_cfg in given:
        assert split_auto(tome_cfg) == (stages, True)
        assert parse_tome_cfg(tome_cfg) == parse_tome_cfg(stages)


def test_presets_are_not_changed_by_reading_them():
    before = repr(PRESETS)
    parse_tome_cfg("hq")
    assert repr(PRESETS) == before


def test_a_mode_cannot_be_taken_twice():
    with pytest.raises(ValueError, match="'bsm' is taken by BipartiteMatching"):
        register_strategy("bsm")(Identity)
    assert STRATEGIES["bsm"] is BipartiteMatching


def test_a_strategy_without_what_it_needs_names_that():
    with pytest.raises(TomeConfigError, match="stage 1, q, mode 'local': missing key 'ratio'"):
        parse_tome_cfg([dict(q=dict(mode="local"))], 1)
