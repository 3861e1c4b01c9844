"""Pictures of groups, of what merging changed, and of what a network was given."""

import numpy as np
import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.visualization import draw_slots
from mmseg_tome.visualization.painting import (
    BEFORE,
    MARK,
    grey_out,
    mark_changes,
    mark_shifts,
    paint_groups,
    to_rgb,
)


def test_a_group_takes_the_mean_colour_of_its_pixels_wherever_they_lie():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, :4] = (10, 20, 30)
    image[:, 4:] = (30, 60, 90)
    # 2x4 tokens of 2x2 pixels: slot 0 holds the four corners, slot 1 the rest.
    slot = np.array([0, 1, 1, 0, 0, 1, 1, 0])
    painted = draw_slots(image, slot, (2, 4), outline=None)
    assert (painted == (20, 40, 60)).all()


@pytest.mark.parametrize("number", [np.int32, lambda g: g.astype(int) * 10**6 - 5 * 10**6])
def test_groups_may_have_any_numbers(number):
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    groups = np.random.default_rng(1).integers(0, 9, (6, 8))
    painted = paint_groups(image, number(groups))
    for group in np.unique(groups):
        mean = image[groups == group].mean(0)
        assert np.abs(painted[groups == group] - mean).max() <= 0.5


def test_one_token_per_slot_keeps_the_mean_of_each_cell_only():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    painted = draw_slots(image, np.arange(6), (2, 3), outline=None)
    cells = image.reshape(2, 3, 3, 3, 3).mean(axis=(1, 3))  # [2, 3, 3]
    expected = cells.round().astype(np.uint8).repeat(3, 0).repeat(3, 1)
    np.testing.assert_array_equal(painted, expected)


def test_lines_run_between_groups_and_nowhere_else():
    image = np.full((8, 16, 3), 100, np.uint8)
    painted = draw_slots(image, np.array([0, 0, 1, 1]), (1, 4), outline=0.5)
    assert (painted[:, 7] == 50).all()
    assert (np.delete(painted, 7, axis=1) == 100).all()


def test_a_grid_that_does_not_divide_the_image_covers_it():
    image = np.full((7, 11, 3), 200, np.uint8)
    painted = draw_slots(image, np.arange(6), (2, 3), outline=None)
    assert painted.shape == image.shape
    assert (painted == 200).all()


def test_the_input_is_not_changed():
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    before = image.copy()
    draw_slots(image, np.arange(4), (2, 2))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "slot", "message"),
    [
        (np.zeros((4, 4, 3)), np.arange(4), "uint8"),
        (np.zeros((4, 4), np.uint8), np.arange(4), "uint8"),
        (np.zeros((4, 4, 3), np.uint8), np.arange(5), "slot must be"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4), int), "slot must be"),
    ],
)
def test_what_does_not_fit_is_refused(image, slot, message):
    with pytest.raises(ValueError, match=message):
        draw_slots(image, slot, (2, 2))


def test_changed_pixels_are_marked_and_all_others_grey():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    before = image.copy()
    changed = rng.random((20, 30)) < 0.3
    painted = mark_changes(image, changed)
    assert (painted[changed] == MARK).all()
    np.testing.assert_array_equal(painted[~changed], grey_out(image)[~changed])
    assert (np.ptp(painted[~changed], axis=-1) == 0).all()
    np.testing.assert_array_equal(image, before)


def test_thin_lines_stay_visible_in_a_smaller_picture():
    changed = np.zeros((400, 600), bool)
    changed[200] = True
    painted = mark_changes(np.zeros((100, 150, 3), np.uint8), changed).astype(int)
    coloured = np.ptp(painted, axis=-1) > 60
    assert coloured[50].all()
    assert not np.delete(coloured, 50, axis=0).any()


def test_keypoints_are_marked_where_they_were_and_are():
    image = np.full((200, 300, 3), 90, np.uint8)
    before, after = np.array([[50, 60], [200, 100]]), np.array([[80, 60], [200, 100]])
    painted = mark_shifts(image, before, after, np.array([True, False]))
    assert (painted[60, 80] == MARK).all()
    assert np.abs(painted[60, 65].astype(int) - MARK).max() < 20  # the line between
    assert (painted == BEFORE).all(axis=-1).any()
    assert (painted[80:] == grey_out(image)[80:]).all()  # one is not to be shown


COLOURS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def preprocessors():
    found = []
    if compat.has("mmseg"):
        from mmseg.models import SegDataPreProcessor

        found.append(SegDataPreProcessor)
    if compat.has("mmpose"):
        from mmpose.models import PoseDataPreprocessor

        found.append(PoseDataPreprocessor)
    return found


@pytest.mark.parametrize("kind", preprocessors())
@pytest.mark.parametrize("options", [dict(bgr_to_rgb=True), {}], ids=["rgb", "bgr"])
@pytest.mark.parametrize("colours", [COLOURS, {}], ids=["normalised", "plain"])
def test_preprocessing_is_undone(kind, options, colours):
    bgr = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    preprocessor = kind(**options, **colours)
    if "Seg" in kind.__name__:
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmpose.structures import PoseDataSample as Sample
    batch = dict(inputs=[torch.from_numpy(bgr).permute(2, 0, 1)], data_samples=[Sample()])
    image = preprocessor(batch, False)["inputs"][0]
    np.testing.assert_array_equal(to_rgb(image, preprocessor), bgr[..., ::-1])


def test_half_precision_and_values_beyond_the_range():
    image = torch.tensor([-3.0, 300.0, 7.4], dtype=torch.bfloat16).view(3, 1, 1)
    assert to_rgb(image, None).tolist() == [[[0, 255, 7]]]


def test_other_channels_are_shown_as_grey():
    image = torch.tensor([[[0.0, 1.0]], [[0.0, 3.0]]])
    assert to_rgb(image, torch.nn.Module()).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("name", ["_channel_conversion", "channel_conversion"])
def test_swapped_channels_by_either_stacks_name(name):
    preprocessor = torch.nn.Module()
    setattr(preprocessor, name, True)
    image = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    assert to_rgb(image, preprocessor).tolist() == [[[1, 2, 3]]]
    setattr(preprocessor, name, False)
    assert to_rgb(image, preprocessor).tolist() == [[[3, 2, 1]]]
