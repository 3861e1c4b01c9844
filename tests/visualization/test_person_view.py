import numpy as np
import pytest
from mmengine.config import Config

from mmseg_tome import compat
from mmseg_tome.visualization.person_view import box_padding, person_view


def test_a_box_is_enlarged_to_the_inputs_shape():
    view = person_view([100, 50, 30, 40], aspect=0.75, padding=1.0)
    assert (view.left, view.top, view.width, view.height) == (100, 50, 30, 40)
    view = person_view([100, 50, 30, 100], aspect=0.75, padding=1.2)
    assert (view.width, view.height) == pytest.approx((90, 120))
    assert (view.left, view.top) == pytest.approx((115 - 45, 100 - 60))


def test_points_and_pixels_fall_together():
    image = np.zeros((300, 400, 3), np.uint8)
    image[120:130, 200:210] = 255
    for size in ((80, 60), (400, 300)):
        view = person_view([180, 100, 45, 60], aspect=0.75, padding=1.0)
        cut = view.cut(image, size)
        assert cut.shape == (*size, 3)
        (middle,) = view.place(np.array([[204.5, 124.5]]), size)
        bright = np.argwhere(cut[..., 0] > 127).mean(axis=0)[::-1]
        assert bright == pytest.approx(middle, abs=1.5)


def test_what_lies_beyond_the_image_is_black():
    cut = person_view([-20, 0, 60, 80], 0.75, 1.0).cut(np.full((80, 60, 3), 9, np.uint8), (80, 60))
    assert (cut[:, :19] == 0).all()
    assert (cut[:, 21:] == 9).all()


@pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")
def test_it_is_what_mmpose_gives_the_network():
    from mmpose.datasets.transforms import GetBBoxCenterScale, TopdownAffine

    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    image = image.repeat(20, 0).repeat(20, 1)
    box = np.array([90.0, 60, 80, 150])
    corners = np.array([[*box[:2], *(box[:2] + box[2:])]])
    sample = dict(img=image, bbox=corners, bbox_score=np.ones(1))
    sample = TopdownAffine((192, 256))(GetBBoxCenterScale()(sample))
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[dict(type="LoadImage")]))))
    ours = person_view(box, 192 / 256, box_padding(cfg)).cut(image, (256, 192))
    assert np.abs(ours.astype(int) - sample["img"]).mean() < 3


def test_the_configs_padding_is_taken():
    step = dict(type="GetBBoxCenterScale", padding=1.5)
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[step]))))
    assert box_padding(cfg) == 1.5
