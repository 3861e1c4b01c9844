"""Groups, heat and counts of known slot maps; which stages a user chooses; pictures for logs."""

import numpy as np
import pytest
import torch
from torch import nn

from mmseg_tome.merging import NeighbourMerging2D, SlotMap
from mmseg_tome.merging.strategies.identity import identity_map
from mmseg_tome.visualization.capture import CapturedSlots, Pass
from mmseg_tome.visualization.painting import fit
from mmseg_tome.visualization.stage_maps import (
    CAPTION,
    GAP,
    Selection,
    StageMap,
    colour_heat,
    merging_stages,
    network_image,
    read_stages,
    stage_picture,
    tokens_apart,
    words,
)

CPU = torch.device("cpu")


def slots(*values: int, hw: tuple[int, int]) -> CapturedSlots:
    slot = torch.tensor([values])
    return CapturedSlots(SlotMap(slot, int(slot.max()) + 1), hw)


def a_pass(image: torch.Tensor, *blocks: CapturedSlots) -> Pass:
    """Queries of one stage; keys and values of 1x1 token do not merge."""
    captured = {(0, j, "q"): block for j, block in enumerate(blocks)}
    kv = CapturedSlots(identity_map(1, CPU), (1, 1))
    return Pass(image, captured | {(0, j, "kv"): kv for j in range(len(blocks))})


def test_heat_is_1_over_the_size_of_a_tokens_group():
    heat = tokens_apart(np.array([0, 1, 1, 2, 0, 0]))
    np.testing.assert_allclose(heat, [1 / 3, 1 / 2, 1 / 2, 1, 1 / 3, 1 / 3], rtol=1e-6)


def test_heat_is_the_mean_over_blocks_and_groups_are_one_blocks():
    blocks = (slots(0, 1, 0, 1, hw=(2, 2)), slots(0, 1, 1, 1, hw=(2, 2)))
    passes = [a_pass(torch.zeros(1, 3, 4, 6), *blocks)]
    (last,) = read_stages(passes)
    np.testing.assert_allclose(last.heat[::2, ::3], [[3 / 4, 5 / 12], [5 / 12, 5 / 12]])
    assert last.heat.shape == last.groups.shape == (4, 6)
    assert (last.heat[:2, :3] == last.heat[0, 0]).all()
    assert last.groups[::2, ::3].tolist() == [[0, 1], [1, 1]]
    assert (last.block, last.blocks, last.hw, last.kept, last.total) == (1, 2, (2, 2), 2, 4)
    for block in ("first", 1):
        (first,) = read_stages(passes, selection=Selection(block))
        assert first.groups[::2, ::3].tolist() == [[0, 1], [0, 1]]
        assert first.block == 0
        np.testing.assert_array_equal(first.heat, last.heat)


def test_each_sample_has_its_own_map_and_shared_ones_serve_all():
    own = CapturedSlots(SlotMap(torch.tensor([[0, 0], [0, 1]]), 2), (1, 2))
    one = [a_pass(torch.zeros(2, 3, 2, 2), CapturedSlots(own.slots._replace(num_slots=1), (1, 2)))]
    assert read_stages(one, sample=0)[0].groups[0].tolist() == [0, 0]
    assert read_stages(one, sample=1)[0].groups[0].tolist() == [0, 1]
    shared = CapturedSlots(NeighbourMerging2D()(torch.zeros(2, 4, 1), (2, 2)), (2, 2))
    (found,) = read_stages([a_pass(torch.zeros(2, 3, 4, 4), shared)], sample=1)
    assert (found.groups == 0).all()
    assert (found.heat == 0.25).all()


def test_only_what_merges_and_is_wanted_is_read():
    merging, plain = slots(0, 0, hw=(1, 2)), slots(0, 1, hw=(1, 2))
    captured = {
        (0, 0, "kv"): merging,
        (0, 0, "q"): plain,
        (1, 0, "q"): merging,
        (1, 0, "kv"): merging,
        (2, 0, "q"): plain,
        (2, 0, "kv"): plain,
    }
    passes = [Pass(torch.zeros(1, 3, 2, 4), captured)]
    assert [each.label for each in read_stages(passes)] == ["stage1_kv", "stage2_q", "stage2_kv"]
    wanted = read_stages(passes, selection=Selection(stages=[1, 3]))
    assert [each.label for each in wanted] == ["stage1_kv"]


def test_sliding_windows_are_put_together_where_they_lie():
    whole = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).reshape(2, 3, 8, 12) / 3
    corners = [(y, x) for y in (0, 2) for x in (0, 4)]  # of 6x8 pixels
    windows = [
        a_pass(whole[:, :, y : y + 6, x : x + 8], slots(0, 0, 1, 1, hw=(2, 2))) for y, x in corners
    ]
    mirrored = a_pass(whole.flip(-1), slots(0, 1, 1, 1, hw=(2, 2)))
    (found,) = read_stages([*windows, mirrored], sample=1)
    assert found.windows == 4
    assert found.groups.shape == (8, 12)
    assert (found.heat == 0.5).all()
    # The last window lies on top of the others; groups of different windows stay apart.
    assert found.groups[2:, 4].tolist() == [6, 6, 6, 7, 7, 7]
    assert found.groups[0, 0] == 0
    assert found.groups[0, 4] == 2
    assert found.groups[7, 0] == 5
    assert "in each of 4 windows" in found.counts
    expected = whole[1].flip(0).round().permute(1, 2, 0).clamp(0, 255).numpy()
    np.testing.assert_array_equal(
        network_image([*windows, mirrored], 1, torch.nn.Module()), expected
    )


def test_windows_of_a_channels_last_image_too():
    whole = torch.zeros(1, 3, 8, 12).to(memory_format=torch.channels_last)
    merging = slots(0, 0, 1, 1, hw=(2, 2))
    windows = [a_pass(whole[:, :, y : y + 6, :8], merging) for y in (0, 2)]
    (found,) = read_stages(windows)
    assert found.groups.shape == (8, 8)
    assert found.groups[:, 0].tolist() == [0, 0, 2, 2, 2, 3, 3, 3]


def stage(groups: np.ndarray, **changes) -> StageMap:
    values = dict(
        stage=2, kind="q", block=1, blocks=2, hw=(64, 64), kept=820, windows=1, groups=groups,
        heat=np.ones(groups.shape, np.float32),
    )  # fmt: skip
    return StageMap(**{**values, **changes})


def test_what_a_reader_is_told():
    few = stage(np.zeros((2, 2), int))
    assert few.name == "stage 3: queries, 64x64 tokens"
    assert few.counts == "820 of 4096 kept (20 %)"
    assert stage(few.groups, kept=40, kind="kv").counts == "40 of 4096 kept (1.0 %)"
    assert stage(few.groups, kind="kv").name == "stage 3: keys/values, 64x64 tokens"


def test_outlines_stand_out_from_light_and_dark_groups():
    groups = np.arange(4).reshape(2, 2).repeat(20, 0).repeat(20, 1)
    for brightness in (20, 220):
        painted, _ = stage(groups).paint(np.full((40, 40, 3), brightness, np.uint8))
        assert (painted[10, 10] == brightness).all()
        assert np.abs(painted[10, 19].astype(int) - brightness).min() > 50
        assert np.abs(painted[19, 30].astype(int) - brightness).min() > 50


@pytest.mark.parametrize("side", [1, 2])
def test_outlines_fade_rather_than_hide_the_picture(side):
    groups = np.arange(100).reshape(10, 10).repeat(side, 0).repeat(side, 1)
    painted, _ = stage(groups).paint(np.full((10 * side, 10 * side, 3), 220, np.uint8))
    assert (painted == 220).all()  # every pixel, or three of four, would be a line
    wide, _ = stage(groups).paint(np.full((80, 80, 3), 220, np.uint8))
    lines = wide.min()
    assert (wide[3, 3] == 220).all()
    assert 99 < lines < 220  # 99 where lines are few


def test_heat_is_painted_in_the_colours_of_the_bar():
    colours = colour_heat(np.array([[0, 0.25, 1]]))
    assert colours.dtype == np.uint8
    assert colours.shape == (1, 3, 3)
    from matplotlib import colormaps

    expected = colormaps["viridis"]([0, 0.5, 1.0], bytes=True)[:, :3]  # square roots
    np.testing.assert_array_equal(colours[0], expected)


pytest.importorskip("mmengine")


@pytest.fixture
def backbone():
    from mmseg_tome.models import MixVisionTransformer

    tome_cfg = [dict(), dict(kv=dict(mode="n2d")), dict(q=dict(mode="n2d")), dict()]
    return MixVisionTransformer(
        embed_dims=8, num_layers=(1, 2, 3, 1), num_heads=(1, 2, 4, 4), tome_cfg=tome_cfg
    )


def test_blocks_are_counted_from_1_or_from_an_end():
    assert [Selection(block).block_of(5) for block in ("first", "last", 1, 3, 5)] == [0, 4, 0, 2, 4]
    assert [Selection(stages=[1, 3]).wants(stage) for stage in range(4)] == [True, False] * 2
    assert Selection().wants(3)


def test_the_stages_that_merge(backbone):
    assert merging_stages(backbone) == [2, 3]


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection("first", [1, 2]),
        Selection(2),
        Selection(3, [3, 4]),
        Selection(9, [1]),
    ],
)
def test_what_is_there_is_taken(backbone, selection):
    selection.check(backbone)  # a block need not be in stages that do not merge


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(stages=[0, 5, 2]), "no stage 0 and 5, only 1 to 4"),
        (Selection(3), "no block 3 in stage 2, choose first, last or 1 to 2"),
        (Selection(0), "no block 0 in stage 2"),
        (Selection("middle"), "no block middle in stage 2"),
    ],
)
def test_what_is_not_there_is_named(backbone, selection, message):
    with pytest.raises(ValueError, match=message):
        selection.check(backbone)


def test_other_backbones_are_refused():
    with pytest.raises(ValueError, match=r"Linear merges no tokens .*MixVisionTransformer"):
        Selection().check(nn.Linear(1, 1))


def test_words():
    assert [words([1]), words([1, 2]), words([1, 2, 4])] == ["1", "1 and 2", "1, 2 and 4"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((600, 800), (600, 800)), ((1024, 2048), (512, 1024)), ((64, 48), (512, 384))],
)
def test_groups_and_heat_lie_side_by_side_above_a_line_of_numbers(size, expected):
    height, width = expected
    image = np.full((*size, 3), 200, np.uint8)
    image[:, : size[1] // 2] = 20
    groups = np.zeros((2, 4), int)
    heat = np.tile(np.float32([0.25, 1, 1, 1]), (2, 1))
    stage = StageMap(2, "q", 0, 1, (64, 64), 820, 1, groups, heat)
    picture = stage_picture(stage, image)
    assert picture.shape == (height + CAPTION, 2 * width + GAP, 3)
    assert picture.dtype == np.uint8
    assert (np.abs(picture[:height, :width].astype(int) - 110) <= 1).all()  # one group, its mean
    quarter = width + GAP + width // 4
    expected_heat = colour_heat(np.array([[0.25, 1]]))[0]
    assert (picture[:height, width + GAP : quarter] == expected_heat[0]).all()
    assert (picture[:height, quarter:] == expected_heat[1]).all()
    caption = picture[height:]
    assert (caption < 90).any()
    assert (caption[:, -3:] == 255).all()


def test_scaling_gives_the_size_that_is_asked_for():
    image = np.full((30, 40, 3), 7, np.uint8)
    for size in ((10, 20), (90, 10), (60, 80)):
        assert fit(image, size).shape == (*size, 3)
        assert (fit(image, size) == 7).all()
