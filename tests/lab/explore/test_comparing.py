"""One image without and with merging: the page's pictures and numbers, without a page."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict

import mmseg_tome
from mmseg_tome import compat
from mmseg_tome.errors import UserError
from mmseg_tome.lab.explore import comparing
from mmseg_tome.lab.explore.comparing import Explorer
from mmseg_tome.merging import TomeConfigError, parse_tome_cfg
from mmseg_tome.nets.errors import ModelInputError
from mmseg_tome.runtime.merging_switch import merging_of, set_merging

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def result(explorer, street):
    return explorer.compare(street, "fast")


def test_numbers_and_pictures_are_of_the_same_predictions(explorer, street, result):
    from mmseg.apis import inference_model

    labels = []
    for tome_cfg in (None, "fast"):
        set_merging(explorer.model, tome_cfg)
        labels.append(inference_model(explorer.model, street[..., ::-1]).pred_sem_seg.data[0])
    changed = (labels[0] != labels[1]).numpy()
    assert 0 < changed.mean() < 1
    assert result.agreement == pytest.approx(1 - changed.mean())
    assert f"{100 * changed.mean():.2f} %" in result.summary
    pictures = (result.image, result.plain, result.merged, result.difference)
    assert {each.shape for each in pictures} == {(128, 256, 3)}
    assert np.array_equal(result.image, street)
    marked = (result.difference.astype(int).max(-1) - result.difference.min(-1)) > 60
    assert np.array_equal(marked, changed)


def test_tokens_kept_are_those_of_the_strategies(result):
    grids = [(4, 8), (4, 8), (8, 16), (4, 8)]
    expected = [
        (strategy.num_slots(grid), grid[0] * grid[1])
        for stage, grid in zip(parse_tome_cfg("fast"), grids, strict=True)
        for strategy in stage[:2]
        if strategy.num_slots(grid) < grid[0] * grid[1]
    ]
    assert [tuple(kept[1:]) for kept in result.kept] == expected
    assert list(result.groups) == ["stage1_kv", "stage2_kv", "stage3_q", "stage4_q"]


def test_groups_are_those_of_the_tokens(result):
    view = result.groups["stage3_q"]
    slots = view.stage.groups[4::16, 4::16][: view.grid[0], : view.grid[1]]
    assert len(np.unique(view.stage.groups)) == view.stage.kept
    assert slots.shape == view.grid


def test_nothing_merges(explorer, street):
    result = explorer.compare(street, None)
    assert (result.agreement, result.groups, result.kept) == (1, {}, [])


@pytest.fixture
def passes(load_tiny):
    """An explorer, and what merged in each forward pass of its network since."""
    explorer, found = Explorer(load_tiny(), "tiny", 256), []
    backbone = explorer.model.backbone
    backbone.register_forward_hook(lambda *_: found.append(merging_of(backbone)))
    return explorer, found


def test_the_network_runs_no_more_than_it_must(passes, street):
    """Unmerged once an image, however its merging changes: it takes the longest."""
    explorer, ran = passes
    hq, fast = parse_tome_cfg("hq"), parse_tome_cfg("fast")
    none = parse_tome_cfg(None, 4)
    first = explorer.compare(street, "hq")
    assert ran == [hq, none]
    second = explorer.compare(street, "fast")
    assert ran == [hq, none, fast]
    assert np.array_equal(first.plain, second.plain)
    explorer.compare(street, "hq")
    assert ran == [hq, none, fast, hq]
    explorer.compare(street[:, ::-1], "fast")
    assert ran == [hq, none, fast, hq, fast, none]


def test_both_are_timed_in_turns(passes, street, monkeypatch):
    explorer, ran = passes
    monkeypatch.setattr(comparing, "SECONDS", 0)
    times = explorer.measure(street, "hq")
    assert times.rounds == 1
    assert min(times) > 0
    assert ran == [parse_tome_cfg(None, 4), parse_tome_cfg("hq")]
    monkeypatch.setattr(comparing, "SECONDS", 1000)
    assert explorer.measure(street, "hq").rounds == comparing.ROUNDS
    assert ran == ran[:2] * (1 + comparing.ROUNDS)


def test_one_window_runs_as_a_whole(passes, street):
    explorer, ran = passes
    slide = dict(mode="slide", crop_size=(128, 256), stride=(96, 192))
    whole = explorer.compare(street, "fast")
    explorer.model.test_cfg = ConfigDict(slide)
    explorer._plain.clear()
    one = explorer.compare(street, "fast")
    assert len(ran) == 4
    assert np.array_equal(whole.merged, one.merged)
    assert explorer.model.test_cfg == slide
    explorer.model.test_cfg.crop_size = (128, 192)
    assert explorer.compare(street, "fast").groups["stage3_q"].stage.windows == 2
    assert len(ran) == 6


def test_it_says_what_it_does(explorer, street):
    told = []
    explorer.compare(street, "hq")
    explorer.compare(street, "n2d", lambda share, what: told.append((share, what)))
    assert [what for _, what in told] == [
        "predicting with merging",
        "drawing",
    ]
    assert told == sorted(told)


def test_a_large_image_is_reduced(explorer, street):
    result = explorer.compare(np.kron(street, np.ones((3, 3, 1), np.uint8)), "hq")
    assert result.image.shape == (128, 256, 3)


def test_an_image_that_is_too_small(explorer):
    with pytest.raises(ModelInputError):
        explorer.compare(np.zeros((2, 256, 3), np.uint8), "hq")


def test_an_unreadable_tome_cfg_leaves_the_model(explorer, street):
    explorer.compare(street, "hq")
    before = merging_of(explorer.model.backbone)
    with pytest.raises(TomeConfigError):
        explorer.compare(street, [{"q": {"mode": "bsm"}}] * 4)
    assert merging_of(explorer.model.backbone) == before


def test_the_network_sees_the_images_own_size(result, street):
    """The config's test pipeline would enlarge it."""
    assert result.groups["stage3_q"].image.shape == street.shape


def test_a_backbone_that_merges_nothing():
    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(1, 1)
    predictor = SimpleNamespace(model=model, task="segmentation", names=["a"])
    with pytest.raises(UserError, match="tiny, Linear, merges no tokens"):
        Explorer(predictor, "tiny")


def test_a_model_without_a_class_list(explorer, monkeypatch):
    assert explorer.notes == ""
    monkeypatch.setattr(explorer.predictor, "names", [f"class {i}" for i in range(11)])
    assert "names no classes" in Explorer(explorer.predictor, "tiny").notes


@pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")
def test_keypoints_of_both(repo, tmp_path):
    from mmseg_tome.lab.explore.page import scene

    cfg = Config.fromfile(repo / "configs/demo/segformerpp_hq_demo_pose.py")
    cfg.dump(tmp_path / "pose.py")
    from mmseg_tome.checkpoints.model import load_model

    model = load_model(cfg, None)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "pose.pth")
    predictor = mmseg_tome.load(tmp_path / "pose.py", tmp_path / "pose.pth", device="cpu")
    explorer = Explorer(predictor, "pose", 256)
    result = explorer.compare(scene(0, "pose"), "fast")
    assert result.agreement is None
    assert result.plain.shape == result.merged.shape == result.difference.shape
    assert list(result.groups) == ["stage1_kv", "stage2_kv", "stage3_q", "stage4_q"]
    assert "keypoint" in result.summary
    frame = explorer.follow(scene(0, "pose"), "fast", 2, "a", check=True)
    assert len(frame.result["instances"]) == 1
    assert (frame.result["saves"], frame.result["agreement"]) == (True, None)


@pytest.fixture
def follower(load_tiny, street):
    """Follow frames of a video; labels of each, and those of an explorer that matches on each."""
    explorer, fresh = Explorer(load_tiny(), "tiny", 256), Explorer(load_tiny(), "tiny", 256)
    frames = [np.ascontiguousarray(np.roll(street, 40 * i, axis=1)) for i in range(4)]

    def anew(frame, every=2, visitor="a", tome_cfg="hq") -> bool:
        """Whether a frame is predicted as if it were matched."""
        found = explorer.follow(frame, tome_cfg, every, visitor)
        set_merging(fresh.model, tome_cfg)
        return np.array_equal(found.labels, fresh._predict(frame).labels)

    return explorer, anew, frames


def test_frames_between_take_the_slots_of_the_last_that_matched(follower):
    _, anew, frames = follower
    assert [anew(frame, every=1) for frame in frames] == [True] * 4
    assert [anew(frame) for frame in frames] == [True, False, True, False]
    assert [anew(frame, every=3) for frame in frames] == [True, False, False, True]


def test_a_followed_model_compares_and_measures_as_before(follower, explorer):
    followed, anew, frames = follower
    assert [anew(frame, every=9) for frame in frames[:2]] == [True, False]
    expected, found = explorer.compare(frames[2], "hq"), followed.compare(frames[2], "hq")
    assert np.array_equal(found.merged, expected.merged)
    assert found.kept == expected.kept
    assert not followed.model.backbone._forward_pre_hooks  # what followed it is gone


@pytest.mark.parametrize(
    "between",
    [
        lambda explorer, frame: explorer.compare(frame, "hq"),
        lambda explorer, frame: explorer.measure(frame, "hq"),
        lambda explorer, frame: explorer.follow(frame, "hq", 9, "b"),
        lambda explorer, frame: explorer.follow(frame, "fast", 9, "a"),
        lambda explorer, frame: explorer.follow(frame, "hq", 8, "a"),
        lambda explorer, frame: explorer.follow(frame[:64], "hq", 9, "a"),
    ],
    ids=["compare", "measure", "visitor", "merging", "every", "size"],
)
def test_anything_between_lets_the_next_frame_match(follower, between):
    explorer, anew, frames = follower
    assert [anew(frame, every=9) for frame in frames[:2]] == [True, False]
    between(explorer, frames[0])
    assert [anew(frame, every=9) for frame in frames[2:]] == [True, False]


def test_a_frame_is_compared_with_the_unmerged_prediction(follower):
    """And the video goes on as without that."""
    explorer, anew, frames = follower
    assert anew(frames[0])
    found = explorer.follow(frames[1], "hq", 2, "a", check=True)
    set_merging(explorer.model, None)
    plain = explorer._predict(frames[1]).labels
    assert found.result["agreement"] == (plain == found.labels).mean() < 1
    explorer.follow(frames[0], "hq", 2, "c", check=True)
    assert [anew(frame, visitor="c") for frame in frames[1:]] == [False, True, False]
    assert explorer.follow(frames[0], "hq", 2, "c").result["agreement"] is None


@pytest.mark.parametrize(
    ("tome_cfg", "every", "saves"),
    [("hq", 2, True), ("hq", 1, False), ("n2d", 2, False), (None, 2, False)],
)
def test_whether_there_is_anything_to_keep(follower, tome_cfg, every, saves):
    explorer, anew, frames = follower
    found = explorer.follow(frames[0], tome_cfg, every, "a")
    assert found.result["saves"] is saves
    assert anew(frames[1], every, "a", tome_cfg) is not saves


def test_a_frame_that_cannot_be_followed(follower):
    explorer, anew, frames = follower
    for frame, tome_cfg, every in ((frames[0][:2], "hq", 2), (frames[0], "quick", 2)):
        with pytest.raises(UserError):
            explorer.follow(frame, tome_cfg, every, "a")
    with pytest.raises(UserError, match="1 frame or more"):
        explorer.follow(frames[0], "hq", 0, "a")
    assert anew(frames[1])
