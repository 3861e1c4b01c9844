import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

NAMES = ("road", "pole", "person", "sky")


@pytest.fixture
def boundary(build):
    return lambda **kwargs: build("BoundaryIoUMetric", **kwargs)


def strip(mask, void, distance):
    """G_d & G by definition: a pixel that is no mask, and not void, lies within the distance."""
    height, width = mask.shape
    near = range(-distance, distance + 1)

    def ends_mask(y, x):
        inside = 0 <= y < height and 0 <= x < width
        return not inside or not (mask[y, x] or void[y, x])

    return {
        (y, x)
        for y, x in map(tuple, mask.nonzero().tolist())
        if not void[y, x] and any(ends_mask(y + i, x + j) for i in near for j in near)
    }


@pytest.mark.parametrize(("ratio", "distance"), [(0.001, 1), (0.04, 1), (0.09, 2), (0.2, 5)])
def test_every_class_by_definition(boundary, evaluate, random_pairs, ratio, distance):
    pairs = random_pairs(2, (15, 19))  # 24.2 pixels from corner to corner
    metrics = evaluate(boundary(dilation_ratio=ratio, per_class=True), *pairs)
    scores = []
    for c, name in enumerate(NAMES):
        intersect = union = 0
        for pred, label in pairs:
            of_label = strip(label == c, label == 255, distance)
            of_pred = strip((pred == c) & (label != 255), label == 255, distance)
            intersect += len(of_label & of_pred)
            union += len(of_label | of_pred)
        scores.append(100 * intersect / union)
        assert metrics[f"boundary_IoU.{name}"] == pytest.approx(scores[-1], abs=0.006)
    assert metrics["boundary_mIoU"] == pytest.approx(np.mean(scores), abs=0.006)
    assert 0 < metrics["boundary_mIoU"] < 100


def test_beyond_the_image_it_is_the_iou_of_mmseg(boundary, evaluate, build, random_pairs):
    pairs = random_pairs(3, (14, 15))
    ours = evaluate(boundary(dilation_ratio=1.0, per_class=True), *pairs)
    stock = evaluate(build("GroupedIoUMetric"), *pairs)
    assert ours["boundary_mIoU"] == pytest.approx(stock["mIoU"], abs=0.011)
    for name in NAMES:
        assert ours[f"boundary_IoU.{name}"] == pytest.approx(stock[f"IoU.{name}"], abs=0.011)


def test_label_and_prediction_are_exchangeable(boundary, evaluate, random_pairs):
    pairs = [(pred, pred.roll(1, 0)) for pred, _ in random_pairs(2, (20, 20))]
    swapped = [(label, pred) for pred, label in pairs]
    assert evaluate(boundary(), *pairs) == evaluate(boundary(), *swapped)


def test_a_right_prediction_and_an_empty_class(boundary, evaluate, random_pairs):
    _, label = random_pairs(1, (20, 20))[0]
    label[label == 3] = 0
    metrics = evaluate(boundary(per_class=True), (label, label))
    assert metrics["boundary_mIoU"] == 100.0
    assert "boundary_IoU.sky" not in metrics


def test_a_shift_by_one_pixel(boundary, evaluate):
    label = torch.zeros(12, 16, dtype=torch.long)  # 20 pixels from corner to corner
    label[3:9, 4:10] = 1
    pred = label.roll(1, 1)
    metrics = evaluate(boundary(dilation_ratio=0.05, per_class=True), (pred, label))
    # Two frames of 20 pixels: of the rows above and below 5 are in both, of the columns none.
    assert metrics["boundary_IoU.pole"] == round(100 * 10 / 30, 2)


def test_the_width_of_a_strip_is_that_of_the_paper():
    from mmseg_tome.evaluation.boundary_iou import BoundaryIoUMetric

    metric = BoundaryIoUMetric()
    metric.dataset_meta = dict(classes=("a", "b"))
    road = torch.zeros(1024, 2048, dtype=torch.long)
    metric.process({}, [dict(pred_sem_seg=dict(data=road), gt_sem_seg=dict(data=road))])
    frame = 1024 * 2048 - (1024 - 2 * 46) * (2048 - 2 * 46)  # 0.02 * 2289.7 pixels
    assert metric.results[0].tolist() == [[frame, 0], [frame, 0]]


def test_void_makes_no_contour():
    from mmseg_tome.evaluation.boundary_iou import boundary_strips

    row = [1] * 8 + [255] * 2 + [1] * 8 + [2] * 8
    classes = np.array([row] * 30, np.uint8)
    strips = boundary_strips(classes, 255, 2)
    assert np.flatnonzero(strips[15]).tolist() == [0, 1, 16, 17, 18, 19, 24, 25]
    # A contour that void covers is where the other class begins.
    classes[:, 17] = 255
    strips = boundary_strips(classes, 255, 2)
    assert np.flatnonzero(strips[15]).tolist() == [0, 1, 16, 18, 24, 25]


def test_void_is_no_place_for_mistakes(boundary, evaluate):
    label = torch.zeros(20, 20, dtype=torch.long)
    label[:, 12:] = 255
    pred = torch.zeros_like(label)
    pred[:, 14:] = 1
    metrics = evaluate(boundary(per_class=True), (pred, label))
    assert metrics == {"boundary_mIoU": 100.0, "boundary_IoU.road": 100.0}


def test_more_classes_than_a_byte_holds(boundary, evaluate):
    names = [f"c{i}" for i in range(300)]
    label = torch.full((20, 20), 299)
    label[:10] = 256
    metrics = evaluate(boundary(names=names, per_class=True), (label, label))
    assert metrics == {
        "boundary_mIoU": 100.0, "boundary_IoU.c256": 100.0, "boundary_IoU.c299": 100.0
    }  # fmt: skip


def test_some_classes_only(boundary, evaluate, random_pairs):
    pairs = random_pairs(1, (20, 20))
    every = evaluate(boundary(per_class=True), *pairs)
    one = evaluate(boundary(classes=["pole"]), *pairs)
    assert one == {"boundary_mIoU": every["boundary_IoU.pole"]}
    with pytest.raises(ValueError, match=r"names \['polle'\]"):
        evaluate(boundary(classes=["polle"]), *pairs)


def test_a_ratio_that_cannot_be(boundary):
    with pytest.raises(ValueError, match="must be positive, got 0"):
        boundary(dilation_ratio=0)
