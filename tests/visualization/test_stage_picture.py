import numpy as np
import pytest

from mmseg_tome.visualization.resizing import fit
from mmseg_tome.visualization.stage_maps import StageMap, colour_heat
from mmseg_tome.visualization.stage_picture import CAPTION, GAP, stage_picture


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
