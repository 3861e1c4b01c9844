"""Frames of a video that take their slot maps from the frame before."""

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmseg_tome import compat, create_model
from mmseg_tome.errors import UserError
from mmseg_tome.merging.attention import TokenMerger
from mmseg_tome.runtime.frame_reuse import FrameReuse
from mmseg_tome.runtime.graphs import install
from mmseg_tome.runtime.merging_switch import NothingMergesError, set_merging


@pytest.fixture
def model():
    """Of torch alone, in which blocks of a stage share their maps."""
    torch.manual_seed(0)
    built = create_model("b0", 3, channels=16, tome_cfg="hq").eval()
    for parameter in built.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return built


@pytest.fixture
def frames():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 1, 3, 64, 96, generator=generator)


@torch.no_grad()
def run(model, frames, every: int, videos=None) -> list[torch.Tensor]:
    reuse = FrameReuse(model, every)
    found = []
    for frame, video in zip(frames, videos or ["a"] * len(frames), strict=True):
        reuse.before_frame(video)
        found.append(model(frame))
    reuse.remove()
    return found


def equal(first, second) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


@torch.no_grad()
def test_matching_on_every_frame_is_what_a_model_does_anyway(model, frames):
    plain = [model(frame) for frame in frames]
    assert equal(run(model, frames, 1), plain) == [True] * 4
    assert equal([model(frame) for frame in frames], plain) == [True] * 4  # it is removed


def test_equal_frames_give_equal_results(model, frames):
    expected = run(model, frames[:1], 1)[0]
    assert equal(run(model, [frames[0]] * 4, 3), [expected] * 4) == [True] * 4


def test_frames_between_take_the_slots_of_the_last_that_matched(model, frames):
    plain = run(model, frames, 1)
    assert equal(run(model, frames, 2), plain) == [True, False, True, False]
    assert equal(run(model, frames, 3), plain) == [True, False, False, True]


def test_each_video_and_image_begins_anew(model, frames):
    plain = run(model, frames, 1)
    assert equal(run(model, frames, 9, ["a", "b", "b", "a"]), plain) == [True, True, False, True]
    assert equal(run(model, frames, 9, ["a", None, None, "a"]), plain) == [True] * 4


def test_a_frame_of_another_size_matches(model, frames):
    smaller = frames[1][..., :64]
    expected = run(model, [smaller], 1)[0]
    assert torch.equal(run(model, [frames[0], smaller], 2)[1], expected)


@torch.no_grad()
def test_several_passes_of_a_frame_keep_their_own_slots(model, frames):
    """As sliding windows are run on a CPU."""
    expected = [model(window) for window in frames[:2]]
    reuse = FrameReuse(model, 2)
    for _ in range(2):
        reuse.before_frame("a")
        assert equal([model(window) for window in frames[:2]], expected) == [True] * 2


@torch.no_grad()
def test_two_kinds_of_frame_are_two_graphs(model, frames, recorder):
    expected = run(model, frames, 2)
    install(model.backbone, "inference", patience=0, capture=recorder)
    assert equal(run(model, frames, 2), expected) == [True] * 4
    assert [kind for kind, _ in recorder.captures] == ["inference"] * 2
    model(frames[0])
    assert len(recorder.captures) == 3


@torch.no_grad()
def test_graphs_of_one_memory_are_not_those_of_another(model, frames, recorder):
    """What a graph writes to must live as long as it does."""
    install(model.backbone, "inference", patience=0, capture=recorder)
    run(model, frames, 2)
    run(model, frames, 2)
    assert len(recorder.captures) == 4


@torch.no_grad()
def test_every_may_change_between_videos(model, frames, recorder):
    expected = {every: run(model, frames, every) for every in (1, 2)}
    install(model.backbone, "inference", patience=0, capture=recorder)
    reuse = FrameReuse(model, 1)
    for video, every in enumerate((2, 1, 2, 1)):
        reuse.every = every
        found = []
        for frame in frames:
            reuse.before_frame(video)
            found.append(model(frame))
        assert equal(found, expected[every]) == [True] * 4
    assert len(recorder.captures) == 3  # matching alone, matching and keeping, keeping


def test_inference_mode_may_come_and_go(model, frames):
    expected = run(model, frames, 2)
    reuse = FrameReuse(model, 2)
    for number, mode in enumerate((torch.inference_mode, torch.no_grad, torch.inference_mode)):
        reuse.before_frame("a")
        with mode():
            assert torch.equal(model(frames[number]), expected[number])


@torch.no_grad()
def test_windows_of_the_grid_are_not_kept(model, frames, recorder):
    set_merging(model, "n2d")
    install(model.backbone, "inference", patience=0, capture=recorder)
    reuse = FrameReuse(model, 2)
    assert not reuse.saves
    for frame in frames:
        reuse.before_frame("a")
        model(frame)
    assert len(recorder.captures) == 1


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
@pytest.mark.parametrize("name", ["VisionTransformer", "PyramidVisionTransformer"])
@torch.no_grad()
def test_stock_backbones(name):
    from mmseg_tome import models

    sizes = dict(embed_dims=32, num_layers=2, num_heads=2, img_size=(64, 96), out_indices=(0, 1))
    if name == "PyramidVisionTransformer":
        sizes = dict(embed_dims=16)
    backbone = getattr(models, name)(**sizes, tome_cfg="hq")
    backbone.eval()  # mm's give nothing back
    around = nn.Module()
    around.backbone = backbone
    mergers = [each for each in backbone.modules() if isinstance(each, TokenMerger)]
    assert mergers
    reuse = FrameReuse(around, 2)
    first, second = torch.randn(2, 1, 3, 64, 96)
    found = []
    for frame in (first, second):
        reuse.before_frame("a")
        found.append(backbone(frame))
    reuse.before_frame(None)
    again = backbone(second)
    assert not all(map(torch.equal, found[1], again))


def test_what_cannot_be(model):
    with pytest.raises(UserError, match="1 frame or more, not for 0"):
        FrameReuse(model, 0)
    with pytest.raises(NothingMergesError, match="merges nothing"):
        FrameReuse(create_model("b0", 3, channels=16), 2)
