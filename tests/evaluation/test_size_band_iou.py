import math
import pickle

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

BANDS = dict(small=(0, 3), large=(3, None))
# Poles of 2 and of 6 pixels, a person of 1, road around them, a void pixel.
LABEL = [
    [1, 1, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 1, 1, 1, 0],
    [0, 0, 0, 0, 1, 1, 1, 0],
    [2, 0, 0, 0, 0, 0, 0, 255],
]
# One pixel of the small pole is missed and one of the large; four of the road are taken for poles.
PRED = [
    [1, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 1, 1, 1, 1],
    [0, 0, 0, 0, 1, 1, 2, 1],
    [2, 0, 0, 0, 0, 1, 1, 1],
]


@pytest.fixture
def size_band(build):
    return lambda **kwargs: build("SizeBandIoUMetric", **kwargs)


def test_hand_computed(size_band, evaluate):
    metrics = evaluate(size_band(bands=BANDS, per_class=True), (PRED, LABEL))
    # Of the 4 false pixels, 1 goes to the pole of 2 pixels and 3 to that of 6.
    assert metrics["IoU.small.pole"] == 33.33  # 1 / (2 + 1)
    assert metrics["IoU.large.pole"] == 55.56  # 5 / (6 + 3)
    assert metrics["recall.small.pole"] == 50.0
    assert metrics["recall.large.pole"] == 83.33
    assert metrics["IoU.small.person"] == 50.0  # 1 / (1 + 1)
    assert metrics["recall.small.person"] == 100.0
    assert metrics["IoU.large.road"] == 78.26  # 18 / (22 + 1)
    assert metrics["mIoU.small"] == 41.67
    assert metrics["recall.small"] == 75.0
    assert metrics["mIoU.large"] == 66.91
    assert not any("sky" in key or "large.person" in key for key in metrics)


def test_without_per_class_there_are_the_means_alone(size_band, evaluate):
    assert set(evaluate(size_band(bands=BANDS), (PRED, LABEL))) == {
        "mIoU.small", "mIoU.large", "recall.small", "recall.large",
    }  # fmt: skip


def test_false_pixels_stay_in_their_image(size_band, evaluate):
    other_label = [[1, 1, 0, 0, 0, 0]]
    other_pred = [[1, 1, 1, 1, 0, 0]]
    pairs = (PRED, LABEL), (other_pred, other_label)
    metrics = evaluate(size_band(bands=BANDS, per_class=True), *pairs)
    assert metrics["IoU.small.pole"] == round(100 * (1 + 2) / (2 + 1 + 2 + 2), 2)
    assert metrics["IoU.large.pole"] == 55.56


def test_false_pixels_of_images_without_the_class_are_not_lost(size_band, evaluate):
    pairs = (PRED, LABEL), ([[1, 1, 1, 1, 0]], [[0, 0, 0, 0, 0]])
    metrics = evaluate(size_band(bands=BANDS, per_class=True), *pairs)
    # Four more: one for the poles of 2 pixels, three for those of 6.
    assert metrics["IoU.small.pole"] == 25.0  # 1 / (2 + 1 + 1)
    assert metrics["IoU.large.pole"] == 41.67  # 5 / (6 + 3 + 3)
    assert metrics["recall.large.pole"] == 83.33


def test_one_band_is_the_iou_of_mmseg(size_band, evaluate, build, random_pairs):
    pairs = random_pairs(4, (12, 15))
    pairs.append((torch.ones(3, 3, dtype=torch.long), torch.zeros(3, 3, dtype=torch.long)))
    ours = evaluate(size_band(bands=dict(all=(0, None)), per_class=True), *pairs)
    stock = evaluate(build("GroupedIoUMetric"), *pairs)
    assert ours["mIoU.all"] == pytest.approx(stock["mIoU"], abs=0.011)
    assert ours["recall.all"] == pytest.approx(stock["mAcc"], abs=0.011)
    for name in ("road", "pole", "person", "sky"):
        assert ours[f"IoU.all.{name}"] == pytest.approx(stock[f"IoU.{name}"], abs=0.011)


def flood(mask: torch.Tensor) -> list[set]:
    """The 8-connected regions of a mask, by walking."""
    left, found = set(map(tuple, mask.nonzero().tolist())), []
    while left:
        region, todo = set(), [left.pop()]
        while todo:
            y, x = todo.pop()
            region.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(region)
    return found


def by_definition(pairs, bands, c):
    """GT, TP and FP of class c in each band, from the definition, pixel by pixel."""
    sums = {band: [0, 0, 0.0] for band in bands}
    for pred, label in pairs:
        objects = flood(label == c)
        false = int(((pred == c) & (label != c) & (label != 255)).sum())
        total = sum(map(len, objects))
        for pixels in objects:
            for band, (low, high) in bands.items():
                if low <= len(pixels) < (high or math.inf):
                    sums[band][0] += len(pixels)
                    sums[band][1] += sum(int(pred[pixel]) == c for pixel in pixels)
                    sums[band][2] += false * len(pixels) / total
    return sums


def test_every_band_by_definition(size_band, evaluate, random_pairs):
    pairs = random_pairs(3, (16, 18), seed=1)
    bands = dict(small=(0, 6), medium=(6, 20), large=(30, None))  # a gap from 20 to 30
    metrics = evaluate(size_band(bands=bands, per_class=True), *pairs)
    compared = 0
    for c, name in enumerate(("road", "pole", "person", "sky")):
        for band, (labelled, hits, false) in by_definition(pairs, bands, c).items():
            assert (labelled > 0) == (f"IoU.{band}.{name}" in metrics)
            if labelled:
                iou = 100 * hits / (labelled + false)
                assert metrics[f"IoU.{band}.{name}"] == pytest.approx(iou, abs=0.006)
                recall = 100 * hits / labelled
                assert metrics[f"recall.{band}.{name}"] == pytest.approx(recall, abs=0.006)
                compared += 1
    assert compared > 8


def test_the_bands_sum_up_to_the_class(size_band, random_pairs):
    from mmseg.evaluation import IoUMetric

    metric = size_band(bands=dict(small=(0, 6), large=(20, None)))
    for pred, label in random_pairs(3, (16, 18), seed=2):
        metric.process({}, [dict(pred_sem_seg=dict(data=pred), gt_sem_seg=dict(data=label))])
        counts, stray = metric.results.pop()
        labelled, hits, false = counts.sum(1).T
        stock = IoUMetric.intersect_and_union(pred, label, 4, 255)
        intersect, union, _, area = (values.numpy() for values in stock)
        np.testing.assert_array_equal(hits, intersect)
        np.testing.assert_array_equal(labelled, area)
        np.testing.assert_allclose(labelled + false + stray, union)


def test_limits_belong_to_the_larger_band(size_band, evaluate):
    label = torch.zeros(40, 70, dtype=torch.long)
    label[:32, :32] = 1  # 1024 pixels
    label[:31, 33:66] = 2  # 1023
    metrics = evaluate(size_band(per_class=True), (label, label))
    assert metrics["IoU.medium.pole"] == metrics["IoU.small.person"] == 100.0
    assert "IoU.small.pole" not in metrics
    assert "mIoU.large" not in metrics


def test_some_classes_only(size_band, evaluate):
    metrics = evaluate(size_band(bands=BANDS, classes=["pole"], per_class=True), (PRED, LABEL))
    assert metrics["mIoU.large"] == metrics["IoU.large.pole"] == 55.56
    assert not any("road" in key for key in metrics)


def test_a_class_that_is_labelled_nowhere_has_no_size(size_band, evaluate):
    metric = size_band(bands=BANDS, classes=["sky"])
    assert evaluate(metric, ([[3, 0]], [[0, 0]])) == {}


def test_instances_of_cityscapes(size_band, evaluate, tmp_path):
    names = [f"c{i}" for i in range(19)]
    label = torch.tensor([[13, 13, 13, 13, 13, 13, 0, 255]])
    pred = torch.tensor([[13, 13, 13, 13, 0, 13, 0, 13]])
    # A car of 4 pixels behind one of 2.
    ids = np.array([[26001, 26001, 26001, 26001, 26000, 26000, 7, 29000]], np.uint16)
    cv2.imwrite(str(tmp_path / "a_gtFine_instanceIds.png"), ids)
    options = dict(names=names, bands=BANDS, classes=["c13"])
    where = dict(seg_map_path=str(tmp_path / "a_gtFine_labelTrainIds.png"))
    suffix = ("labelTrainIds", "instanceIds")
    metrics = evaluate(size_band(instance_suffix=suffix, **options), (pred, label), **where)
    assert metrics["recall.small"] == 50.0
    assert metrics["recall.large"] == 100.0
    without = evaluate(size_band(**options), (pred, label), **where)
    assert without == {"mIoU.large": 83.33, "recall.large": 83.33}


def test_results_are_small_whatever_the_image(size_band):
    metric = size_band(names=[f"c{i}" for i in range(19)])
    label = torch.randint(0, 19, (16, 16)).repeat_interleave(16, 0).repeat_interleave(16, 1)
    metric.process({}, [dict(pred_sem_seg=dict(data=label), gt_sem_seg=dict(data=label))])
    assert len(pickle.dumps(metric.results)) < 3000


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({}, "bands is empty"),
        (dict(small=(0, 4), tiny=(2, 3)), "'small' and 'tiny' overlap"),
        (dict(none=(4, 4)), "'none' holds no size"),
        (dict(small=(0,)), "'small' must be two sizes"),
    ],
)
def test_bands_that_cannot_be(size_band, bands, message):
    with pytest.raises(ValueError, match=message):
        size_band(bands=bands)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["pole", "polle"], r"names \['polle'\].*road, pole, person, sky"), ([], "is empty")],
)
def test_classes_that_are_not_there(size_band, evaluate, classes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(size_band(classes=classes), (PRED, LABEL))


VOID = 255


def objects(mask, hit, instances=None):
    """Size of each object of a mask, and how many of its pixels are hit."""
    from mmseg_tome.evaluation.size_band_iou import LabelObjects

    found = LabelObjects(mask.astype(np.uint8), VOID, {}, 2, [1], instances)
    return found.areas, found.hits(hit.astype(np.uint8))


def test_regions_touch_by_their_corners():
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]], bool)
    hit = mask & np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]], bool)
    area, hits = objects(mask, hit)
    assert sorted(zip(area.tolist(), hits.tolist(), strict=True)) == [(2, 1), (3, 2)]


def test_instances_part_what_touches_and_join_what_is_apart():
    mask = np.array([[1, 1, 1, 1, 0, 1, 1]], bool)
    numbers = np.array([[5, 5, 2, 0, 9, 5, 0]], np.int32)  # number 9 is of another class
    hit = np.array([[1, 0, 1, 0, 0, 1, 0]], bool)
    area, hits = objects(mask, hit, numbers)
    # Number 5, number 2, and two regions without a number.
    assert sorted(zip(area.tolist(), hits.tolist(), strict=True)) == [
        (1, 0),
        (1, 0),
        (1, 1),
        (3, 2),
    ]


def write(path, ids):
    cv2.imwrite(str(path), np.array(ids, np.uint16))
    return str(path)


def test_cityscapes_instance_ids(tmp_path):
    from mmseg_tome.evaluation.size_band_iou import read_instances

    # Cars (label id 26, train id 13), a group of them without number, a caravan (29, void), road.
    path = write(tmp_path / "ids.png", [[26000, 26001, 26, 29003, 7]])
    label = np.array([[13, 13, 13, VOID, 0]], np.uint8)
    assert read_instances(path, label, VOID).tolist() == [[1, 2, 0, 0, 0]]


def test_the_label_ids_are_those_of_cityscapes(shared):
    from mmseg_tome.evaluation.size_band_iou import CITYSCAPES_TRAIN_IDS, read_instances

    assert list(CITYSCAPES_TRAIN_IDS.values()) == list(range(19))
    path = next((shared / "data" / "pseudo_cityscapes").rglob("*_instanceIds.png"))
    labels = {
        kind: cv2.imread(str(path).replace("instanceIds", kind), cv2.IMREAD_UNCHANGED)
        for kind in ("labelIds", "labelTrainIds")
    }
    mapped = np.vectorize(lambda i: CITYSCAPES_TRAIN_IDS.get(i, VOID))(labels["labelIds"])
    assert (mapped == labels["labelTrainIds"]).mean() > 0.9  # its contours were drawn twice
    instances = read_instances(str(path), labels["labelTrainIds"], VOID)
    for train_id, number in ((11, 4), (13, 3)):
        assert len(set(instances[labels["labelTrainIds"] == train_id].tolist()) - {0}) == number


def test_a_few_pixels_may_differ_and_have_no_instance(tmp_path):
    from mmseg_tome.evaluation.size_band_iou import read_instances

    path = write(tmp_path / "ids.png", [[26000] * 9 + [24000]])
    assert read_instances(path, np.full((1, 10), 13, np.uint8), VOID).tolist() == [[1] * 9 + [0]]


def test_the_name_of_the_file():
    from mmseg_tome.evaluation.size_band_iou import instance_path

    suffix = ("labelTrainIds", "instanceIds")
    path = "/labelTrainIds/gtFine/a_gtFine_labelTrainIds.png"
    assert instance_path(path, suffix) == "/labelTrainIds/gtFine/a_gtFine_instanceIds.png"
    with pytest.raises(ValueError, match=r"no 'labelTrainIds' in /a\.png"):
        instance_path("/a.png", suffix)


def test_files_that_do_not_fit(tmp_path):
    from mmseg_tome.evaluation.size_band_iou import read_instances

    label = np.array([[13, 13]], np.uint8)
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist; without instance ids"):
        read_instances(str(tmp_path / "none.png"), label, VOID)
    with pytest.raises(ValueError, match=r"is \[1, 3\], the label \[1, 2\]"):
        read_instances(write(tmp_path / "wide.png", [[26000, 26000, 26]]), label, VOID)
    with pytest.raises(ValueError, match="another class than the label at 1 of 2 pixels"):
        read_instances(write(tmp_path / "person.png", [[26000, 24000]]), label, VOID)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="is no image"):
        read_instances(str(tmp_path / "text.png"), label, VOID)
