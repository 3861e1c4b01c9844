"""The IoU metric beside mmseg's, and IoU of groups of classes."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

OPTIONS = {
    "default": {},
    "all metrics": dict(iou_metrics=["mIoU", "mDice", "mFscore"], beta=2),
    "ignore_index": dict(ignore_index=3),
    "nan_to_num": dict(nan_to_num=0),
    "prefix": dict(prefix="part"),
    "collect_device": dict(collect_device="gpu"),
}


def stock(names, **kwargs):
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric(**kwargs)
    metric.dataset_meta = dict(classes=names)
    return metric


@pytest.mark.parametrize("option", OPTIONS)
def test_the_numbers_are_those_of_mmseg(option, build, evaluate, random_pairs):
    pairs = random_pairs(3, (17, 23))
    pairs[0][1][:2] = 77  # neither a class nor ignored
    pairs[1] = (pairs[1][0].float(), pairs[1][1].to(torch.uint8))  # as binary models have it
    names = ("a", "b", "c", "d", "nowhere")
    expected = evaluate(stock(names, **OPTIONS[option]), *pairs)
    ours = evaluate(build("IoUMetric", names=names, **OPTIONS[option]), *pairs)
    np.testing.assert_equal(ours, expected)
    assert expected


@pytest.mark.parametrize("num_classes", [1, 2, 150])
def test_areas_are_those_of_mmseg(num_classes):
    from mmseg.evaluation import IoUMetric as Stock

    from mmseg_tome.evaluation import IoUMetric

    pred = torch.randint(0, num_classes, (40, 50))
    label = torch.randint(-1, num_classes + 1, (40, 50))
    label[torch.rand(40, 50) < 0.2] = 255
    before = pred.clone(), label.clone()
    areas = IoUMetric.intersect_and_union(pred, label, num_classes, 255)
    expected = Stock.intersect_and_union(pred, label, num_classes, 255)
    assert all(map(torch.equal, areas, expected))
    assert all(a.dtype == b.dtype for a, b in zip(areas, expected, strict=True))
    assert all(map(torch.equal, (pred, label), before))


def test_it_can_be_used_again(build, evaluate, random_pairs):
    metric, pairs = build("IoUMetric"), random_pairs(2, (9, 9))
    assert evaluate(metric, *pairs) == evaluate(metric, *pairs)


@pytest.mark.parametrize("format_only", [False, True])
def test_maps_are_written(format_only, build, evaluate, random_pairs, tmp_path):
    from PIL import Image

    [(pred, label)] = random_pairs(1, (9, 11))
    metric = build("IoUMetric", output_dir=str(tmp_path / "out"), format_only=format_only)
    scores = evaluate(metric, (pred, label), img_path="x/name.jpg", reduce_zero_label=True)
    assert bool(scores) != format_only
    written = np.array(Image.open(tmp_path / "out/name.png"))
    assert (written == pred.numpy() + 1).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_waits_for_nothing_but_the_last_image_but_one(build, evaluate, random_pairs):
    pairs = random_pairs(5, (200, 300))
    expected = evaluate(stock(("road", "pole", "person", "sky")), *pairs)
    metric = build("IoUMetric")
    samples = [
        dict(pred_sem_seg=dict(data=pred[None].cuda()), gt_sem_seg=dict(data=label[None].cuda()))
        for pred, label in pairs
    ]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for sample in samples:
            metric.process({}, [sample])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(area.is_cuda for areas in metric.results for area in areas)
    assert metric.evaluate(len(samples)) == expected


CLASSES = ("road", "pole", "person", "sky")
# road: 2 of 4 union; pole: 1 of 3; person: 1 of 2; sky: nowhere; the last pixel is void.
LABEL = torch.tensor([[0, 0, 0, 1, 1, 2, 255]])
PRED = torch.tensor([[0, 0, 1, 1, 0, 2, 1]])
PRED_PERSON_TWICE = torch.tensor([[0, 0, 2, 1, 0, 2, 1]])


def test_groups_hand_computed(build, evaluate):
    metrics = evaluate(build("GroupedIoUMetric"), (PRED, LABEL))
    assert metrics["IoU.road"] == 50.0  # 2 / (3 labelled + 3 predicted - 2)
    assert metrics["IoU.pole"] == 33.33  # 1 / (2 + 2 - 1)
    assert metrics["IoU.person"] == 100.0
    assert "IoU.sky" not in metrics
    assert metrics["mIoU.thin"] == 66.67  # pole and person; the data set has no other thin class
    assert metrics["mIoU"] == 61.11


def test_several_images_add_up_before_they_divide(build, evaluate):
    metrics = evaluate(build("GroupedIoUMetric"), (PRED, LABEL), (PRED_PERSON_TWICE, LABEL))
    assert metrics["IoU.person"] == 66.67  # 2 / (2 + 3 - 2)
    assert metrics["IoU.pole"] == 40.0  # 2 / (4 + 3 - 2)


def test_the_metrics_of_mmseg_stay_what_they_are(build, evaluate):
    generator = torch.Generator().manual_seed(0)
    pairs = [
        tuple(torch.randint(0, 4, (8, 9), generator=generator) for _ in range(2)) for _ in range(3)
    ]
    metrics = ["mIoU", "mDice", "mFscore"]
    expected = evaluate(stock(CLASSES, iou_metrics=metrics), *pairs)
    ours = evaluate(build("GroupedIoUMetric", iou_metrics=metrics), *pairs)
    assert {key: ours[key] for key in expected} == expected
    per_class = [ours[f"IoU.{name}"] for name in CLASSES]
    assert math.isclose(sum(per_class) / 4, expected["mIoU"], abs_tol=0.011)
    assert math.isclose((per_class[1] + per_class[2]) / 2, ours["mIoU.thin"], abs_tol=0.011)


def test_groups_of_ones_own(build, evaluate):
    metrics = evaluate(
        build("GroupedIoUMetric", groups=dict(flat=["road"], empty_sky=["sky"])), (PRED, LABEL)
    )
    assert metrics["mIoU.flat"] == 50.0
    assert "mIoU.empty_sky" not in metrics
    assert "mIoU.thin" not in metrics


def test_nan_to_num_counts_absent_classes_as_mmseg_does(build, evaluate):
    metrics = evaluate(
        build("GroupedIoUMetric", nan_to_num=0, groups=dict(a=["person", "sky"])), (PRED, LABEL)
    )
    assert metrics["IoU.sky"] == 0.0
    assert metrics["mIoU.a"] == 50.0
    assert metrics["mIoU"] == 45.83


def test_a_data_set_without_thin_classes_has_no_default_group(build, evaluate):
    metrics = evaluate(build("GroupedIoUMetric", names=("a", "b", "c", "d")), (PRED, LABEL))
    assert "IoU.a" in metrics
    assert not any(key.startswith("mIoU.") for key in metrics)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (dict(thin=["pole", "polle"]), r"'thin' names \['polle'\].*road, pole, person, sky"),
        (dict(none=[]), "'none' is empty"),
    ],
)
def test_a_group_that_cannot_be_is_refused(build, evaluate, groups, message):
    with pytest.raises(ValueError, match=message):
        evaluate(build("GroupedIoUMetric", groups=groups), (PRED, LABEL))
