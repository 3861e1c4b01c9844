import math

import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

CLASSES = ("road", "pole", "person", "sky")
# road: 2 of 4 union; pole: 1 of 3; person: 1 of 2; sky: nowhere; the last pixel is void.
LABEL = torch.tensor([[0, 0, 0, 1, 1, 2, 255]])
PRED = torch.tensor([[0, 0, 1, 1, 0, 2, 1]])
PRED_PERSON_TWICE = torch.tensor([[0, 0, 2, 1, 0, 2, 1]])


def evaluate(metric, *pairs, classes=CLASSES):
    metric.dataset_meta = dict(classes=classes)
    samples = [
        dict(pred_sem_seg=dict(data=pred), gt_sem_seg=dict(data=label)) for pred, label in pairs
    ]
    metric.process({}, samples)
    return metric.evaluate(len(samples))


@pytest.fixture
def build():
    from mmseg_tome.registry import METRICS

    return lambda **kwargs: METRICS.build(dict(type="mmseg_tome.GroupedIoUMetric", **kwargs))


def test_hand_computed(build):
    metrics = evaluate(build(), (PRED, LABEL))
    assert metrics["IoU.road"] == 50.0  # 2 / (3 labelled + 3 predicted - 2)
    assert metrics["IoU.pole"] == 33.33  # 1 / (2 + 2 - 1)
    assert metrics["IoU.person"] == 100.0
    assert "IoU.sky" not in metrics
    assert metrics["mIoU.thin"] == 66.67  # pole and person; the data set has no other thin class
    assert metrics["mIoU"] == 61.11


def test_several_images_add_up_before_they_divide(build):
    metrics = evaluate(build(), (PRED, LABEL), (PRED_PERSON_TWICE, LABEL))
    assert metrics["IoU.person"] == 66.67  # 2 / (2 + 3 - 2)
    assert metrics["IoU.pole"] == 40.0  # 2 / (4 + 3 - 2)


def test_the_metrics_of_mmseg_stay_what_they_are(build):
    from mmseg.evaluation import IoUMetric

    generator = torch.Generator().manual_seed(0)
    pairs = [
        tuple(torch.randint(0, 4, (8, 9), generator=generator) for _ in range(2)) for _ in range(3)
    ]
    metrics = ["mIoU", "mDice", "mFscore"]
    stock = evaluate(IoUMetric(iou_metrics=metrics), *pairs)
    ours = evaluate(build(iou_metrics=metrics), *pairs)
    assert {key: ours[key] for key in stock} == stock
    per_class = [ours[f"IoU.{name}"] for name in CLASSES]
    assert math.isclose(sum(per_class) / 4, stock["mIoU"], abs_tol=0.011)
    assert math.isclose((per_class[1] + per_class[2]) / 2, ours["mIoU.thin"], abs_tol=0.011)


def test_groups_of_ones_own(build):
    metrics = evaluate(build(groups=dict(flat=["road"], empty_sky=["sky"])), (PRED, LABEL))
    assert metrics["mIoU.flat"] == 50.0
    assert "mIoU.empty_sky" not in metrics
    assert "mIoU.thin" not in metrics


def test_nan_to_num_counts_absent_classes_as_mmseg_does(build):
    metrics = evaluate(build(nan_to_num=0, groups=dict(a=["person", "sky"])), (PRED, LABEL))
    assert metrics["IoU.sky"] == 0.0
    assert metrics["mIoU.a"] == 50.0
    assert metrics["mIoU"] == 45.83


def test_a_data_set_without_thin_classes_has_no_default_group(build):
    metrics = evaluate(build(), (PRED, LABEL), classes=("a", "b", "c", "d"))
    assert "IoU.a" in metrics
    assert not any(key.startswith("mIoU.") for key in metrics)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (dict(thin=["pole", "polle"]), r"'thin' names \['polle'\].*road, pole, person, sky"),
        (dict(none=[]), "'none' is empty"),
    ],
)
def test_a_group_that_cannot_be_is_refused(build, groups, message):
    with pytest.raises(ValueError, match=message):
        evaluate(build(groups=groups), (PRED, LABEL))
