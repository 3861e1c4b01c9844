"""The IoU metric beside mmseg's."""

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
