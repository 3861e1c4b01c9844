"""What a figure says that merging changed, and what a pose model sees of a person."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmseg_tome import compat
from mmseg_tome.predict.inputs import Item, Source
from mmseg_tome.predict.results import Prediction
from mmseg_tome.visualization.capture import Pass
from mmseg_tome.visualization.comparison import (
    LISTED,
    PoseComparison,
    SegmentationComparison,
    box_padding,
    person_view,
)
from mmseg_tome.visualization.painting import MARK

pytest.importorskip("mmcv")


@pytest.fixture
def item():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    return Item(Source(Path("a.png"), "a", False), image)


class TestSegmentation:
    def compare(self, item, plain, merged, classes=3) -> SegmentationComparison:
        predictions = [
            Prediction({}, np.full_like(item.image, shade), labels)
            for shade, labels in ((50, plain), (90, merged))
        ]
        palette = np.arange(3 * classes).reshape(classes, 3)
        names = [f"class {i}" for i in range(classes)]
        return SegmentationComparison(item, *predictions, [], names, palette)

    def test_the_share_and_the_place_of_what_changed(self, item):
        plain = np.zeros((60, 90), np.uint8)
        merged = plain.copy()
        merged[:6] = 2
        compared = self.compare(item, plain, merged)
        assert compared.summary == "merging changes the class of 10.00 % of the pixels"
        assert compared.aspect == 1.5
        image, without, with_, difference = compared.panels((60, 90))
        np.testing.assert_array_equal(image.picture, item.image[..., ::-1])
        assert (without.picture == 50).all()
        assert (with_.picture == 90).all()
        assert "10.00 %" in difference.title
        marked = (difference.picture == MARK).all(axis=-1)
        np.testing.assert_array_equal(marked, plain != merged)

    def test_the_legend_lists_the_classes_of_both_predictions(self, item):
        plain = np.zeros((60, 90), np.uint8)
        merged = np.full((60, 90), 2, np.uint8)
        legend = self.compare(item, plain, merged).legend
        assert legend == [("class 0", [0, 1, 2]), ("class 2", [6, 7, 8])]

    def test_of_many_classes_the_legend_lists_the_largest(self, item):
        labels = np.arange(5400).reshape(60, 90) % 40
        labels[30:] = 35
        legend = self.compare(item, labels, labels, classes=40).legend
        assert len(legend) == LISTED + 1
        assert ("class 35", [105, 106, 107]) in legend
        assert legend[-1][0] == f"(and {40 - LISTED} more)"


class TestPose:
    def prediction(self, shift: float) -> Prediction:
        def person(box, scores):
            keypoints = [[20 + shift, 30], [40, 40 + shift], [5, 5]]
            return dict(bbox=box, keypoints=keypoints, keypoint_scores=scores)

        small = person([0, 0, 10, 10], [1, 1, 1])
        large = person([10, 10, 30, 40], [0.9, 0.8, 0.1])
        return Prediction(dict(instances=[small, large]), np.zeros((60, 90, 3), np.uint8))

    def compare(self, item, passes=4, threshold=0.3) -> PoseComparison:
        ran = [Pass(torch.full((1, 3, 64, 48), i), {}) for i in range(passes)]
        seen = (item, self.prediction(0), self.prediction(3), ran)
        return PoseComparison(*seen, padding=1.25, threshold=threshold)

    def test_the_largest_person_is_drawn(self, item):
        compared = self.compare(item)
        assert [int(each.image[0, 0, 0, 0]) for each in compared.passes] == [2, 3]
        assert "person 2 of 2" in compared.summary
        assert compared.aspect == 0.75

    def test_the_mean_shift_of_confident_keypoints(self, item):
        compared = self.compare(item)
        assert "2 of 3 keypoints" in compared.summary
        assert "3.00 px" in compared.summary
        panels = compared.panels((128, 96))
        assert [panel.picture.shape for panel in panels] == [(128, 96, 3)] * 4
        assert "3.00 px" in panels[3].title
        # The view is 50 pixels high and 37.5 wide, around (25, 30).
        x, y = (23 - 6.25) * 96 / 37.5, (30 - 5) * 128 / 50
        assert (panels[3].picture[round(y), round(x)] == MARK).all()

    def test_no_confident_keypoint(self, item):
        compared = self.compare(item, threshold=0.95)
        assert compared.summary == "no keypoint of person 2 of 2 is above the threshold"
        assert "none to see" in compared.panels((128, 96))[3].title


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
