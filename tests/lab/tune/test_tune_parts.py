"""The parts of a search by themselves: its space, its guesses, its choice, its splits."""

import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("optuna")


from mmseg_tome.lab.tune import choose, probes
from mmseg_tome.lab.tune.choose import Goal, front
from mmseg_tome.lab.tune.images import split
from mmseg_tome.lab.tune.probes import StageTimes
from mmseg_tome.lab.tune.search import Tried, open_study, spread
from mmseg_tome.lab.tune.space import Choice, Space, tome_cfg
from mmseg_tome.merging import PRESETS, parse_tome_cfg
from mmseg_tome.merging.strategies.identity import Identity
from mmseg_tome.models import MixVisionTransformer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def backbone() -> MixVisionTransformer:
    return MixVisionTransformer(embed_dims=8, num_layers=(1, 1, 6, 1), num_heads=(1, 2, 5, 8))


@pytest.fixture(scope="module")
def space(backbone) -> Space:
    return Space.of(backbone, (512, 512))


class Trial:
    """Suggests fixed values, and refuses those that are no choice."""

    def __init__(self, params):
        self.params = params

    def suggest_categorical(self, name, choices):
        assert self.params[name] in choices
        return self.params[name]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_plans_that_a_trial_can_suggest(space, name):
    plan = space.presets()[name]
    assert space.suggest(Trial(space.params(plan))) == plan
    found, expected = parse_tome_cfg(tome_cfg(plan)), parse_tome_cfg(name)
    assert [stage[:2] for stage in found] == [stage[:2] for stage in expected]
    # Without merged keys nothing is proportional.
    assert [stage.proportional for stage in found] == [
        stage.proportional and stage.kv != Identity() for stage in expected
    ]
    # Reuse beyond a stage's blocks is all of its blocks.
    for stage, wanted, blocks in zip(found, expected, (1, 1, 6, 1), strict=True):
        assert stage.reuse == min(wanted.reuse, blocks)


def test_ways_that_merge_nothing_on_small_grids_are_left_out(backbone):
    small = Space.of(backbone, (64, 64))  # 2x2 tokens in stage 4, and in every stage's keys
    assert small.ways[3]["q"] == ("none", "n2d-2x2", "n2d-4x4")
    assert len(small.ways[0]["q"]) == len(Space.of(backbone, (512, 512)).ways[0]["q"])
    assert small.presets()["fast"][0].kv == "none"


def test_a_choice_has_one_form(space):
    assert space.tidy(2, Choice("n2d-2x2", "none", 4)) == Choice("n2d-2x2", "none", 1)
    assert space.tidy(2, Choice("bsm-4x4-0.8", "none", 8)).reuse == 6
    assert space.reuses == ((1,), (1,), (1, 2, 4, 6), (1,))
    assert len(set(space.choices(2))) == len(space.choices(2))


class Times:
    """Each way of queries saves 1 ms of a stage's 10, of keys and values 2 ms."""

    def __init__(self, space):
        self.space = space

    def stage_ms(self, stage):
        return 10.0

    def ratio(self, stage, choice):
        return 1 - 0.1 * (choice.q != "none") - 0.2 * (choice.kv != "none")


def test_guesses_are_the_front_of_the_sums(space):
    known = {
        f"loss {stage + 1}: {choice}": (1.0 if choice.q != "none" else 3.0) * (stage + 1)
        for stage, choice in probes.probes(space)
    }
    found = probes.guesses(space, Times(space), known)
    losses, saved = [g.loss for g in found], [-g.ms for g in found]
    assert found[-1].plan == space.plain
    assert losses == sorted(losses, reverse=True)
    assert saved == sorted(saved, reverse=True)
    assert (saved[0], losses[0]) == (pytest.approx(12), pytest.approx(40))
    # The cheapest millisecond is the first stage's queries.
    assert [choice.kv for choice in found[-2].plan] == ["none"] * 4
    assert [choice.q != "none" for choice in found[-2].plan] == [True, False, False, False]


class Segmentor(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.decode_head = backbone, torch.nn.Identity()


def test_times_of_stages_add_up_and_are_measured_once(backbone, monkeypatch):
    space = Space.of(backbone, (128, 128))
    known = {"ms whole": 100.0, **{f"ms {i}": 20.0 for i in (1, 2, 3, 4)}}
    model = Segmentor(backbone).eval()
    cpu = torch.device("cpu")
    times = StageTimes(model, space, (128, 128), 1, cpu, "float32", known, rounds=1)
    assert known["ms whole"] == 100
    choice = Choice("n2d-2x2")
    known["ratio 1: q n2d-2x2"] = 0.5
    known["ratio 3: q n2d-2x2"] = 0.75
    plan = (choice, Choice(), choice, Choice())
    assert times.predict(plan) == pytest.approx(100 - 10 - 5)
    assert times.speedup(space.plain) == 1
    merged = Choice("bsm-4x4-0.9", "bsm-2x2-0.6")
    assert times.ratio(1, merged) > 0
    monkeypatch.setattr(times, "_sample", None)
    assert times.ratio(1, merged) == known[f"ratio 2: {merged}"]


def tried(name, speedup, loss):
    return Tried((Choice(name),), speedup, dict(loss=loss))


def test_a_plan_wins_by_what_is_measured():
    slow, fast, faster = tried("a", 1.5, 1.0), tried("b", 1.6, 2.0), tried("c", 2.0, 5.0)
    true = {slow.plan: 1.4, fast.plan: 1.55, faster.plan: 1.9}
    every = [slow, fast, faster]

    def measure(plans):
        return [true[plan] for plan in plans]

    assert choose.choose(Goal(1.5), every, [], measure)[0] is fast
    assert choose.choose(Goal(loss=2.5), every, [], measure)[0] is fast
    assert choose.choose(Goal(loss=0.5), every, [], measure)[0] is None
    winner, measured = choose.choose(Goal(1.95), every, [slow.plan], measure)
    assert winner is None
    assert measured[faster.plan] == 1.9
    assert front([slow, fast, faster, tried("d", 1.55, 3.0)]) == [faster, fast, slow]


def test_more_plans_are_timed_until_one_will_do():
    # Predictions promise too much for all but the fastest.
    every = [tried(str(i), 1.5 + i / 100, float(i)) for i in range(20)]
    asked = []

    def measure(plans):
        asked.append(len(plans))
        return [1.6 if plan == every[-1].plan else 1.4 for plan in plans]

    assert choose.choose(Goal(1.5), every, [], measure)[0] is every[-1]
    assert asked == [6, 6, 6, 2]


@pytest.mark.parametrize("number", [2, 3, 7, 36])
def test_a_split_is_one(number):
    some, others = split(number, 0.33)
    assert sorted([*some, *others]) == list(range(number))
    assert others
    assert some


def test_spread_keeps_both_ends():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 5) == [0, 1, 2]


def test_a_journal_that_is_none_is_named(tmp_path):
    from mmseg_tome.errors import UserError

    (tmp_path / "journal.log").mkdir()
    with pytest.raises(UserError, match=r"cannot use .*journal\.log"):
        open_study(tmp_path, "x", 0)
