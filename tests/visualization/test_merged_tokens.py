import numpy as np
import pytest

from mmseg_tome.visualization import draw_slots


def test_a_group_takes_the_mean_colour_of_its_pixels_wherever_they_lie():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, :4] = (10, 20, 30)
    image[:, 4:] = (30, 60, 90)
    # 2x4 tokens of 2x2 pixels: slot 0 holds the four corners, slot 1 the rest.
    slot = np.array([0, 1, 1, 0, 0, 1, 1, 0])
    painted = draw_slots(image, slot, (2, 4), outline=None)
    assert (painted == (20, 40, 60)).all()


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
