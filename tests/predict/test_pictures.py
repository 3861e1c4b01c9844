"""Images of any kind become pictures of 8-bit colours."""

import numpy as np
import pytest

from mmseg_tome.predict.inputs import to_picture


def test_8_bit_colours_stay():
    image = np.zeros((4, 5, 3), np.uint8)
    assert to_picture(image) is image


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_grey_becomes_grey_colours(shape):
    image = np.arange(20, dtype=np.uint8).reshape(shape)
    picture = to_picture(image)
    assert picture.shape == (4, 5, 3)
    assert (picture == image.reshape(4, 5, 1)).all()


def test_of_many_channels_the_first_three_are_shown():
    image = np.arange(4 * 5 * 7, dtype=np.uint8).reshape(4, 5, 7)
    assert np.array_equal(to_picture(image), image[..., :3])


def test_of_two_channels_the_mean():
    image = np.stack([np.full((4, 5), 10, np.uint8), np.full((4, 5), 30, np.uint8)], axis=2)
    assert (to_picture(image) == 20).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_other_values_are_stretched(dtype):
    image = np.linspace(1000, 4000, 20).astype(dtype).reshape(4, 5)
    picture = to_picture(image)
    assert picture.dtype == np.uint8
    assert (picture.min(), picture.max()) == (0, 255)


def test_one_value_or_none_at_all():
    assert (to_picture(np.full((2, 2), 7.0)) == 0).all()
    assert to_picture(np.array([[np.nan, 1], [np.inf, 0]])).shape == (2, 2, 3)
