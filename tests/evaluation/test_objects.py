import cv2
import numpy as np
import pytest

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

VOID = 255


def test_regions_touch_by_their_corners():
    from mmseg_tome.evaluation.objects import count_objects

    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]], bool)
    hit = mask & np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]], bool)
    area, hits = count_objects(mask, hit)
    assert sorted(zip(area.tolist(), hits.tolist(), strict=True)) == [(2, 1), (3, 2)]


def test_instances_part_what_touches_and_join_what_is_apart():
    from mmseg_tome.evaluation.objects import count_objects

    mask = np.array([[1, 1, 1, 1, 0, 1, 1]], bool)
    numbers = np.array([[5, 5, 2, 0, 9, 5, 0]], np.int32)  # number 9 is of another class
    hit = np.array([[1, 0, 1, 0, 0, 1, 0]], bool)
    area, hits = count_objects(mask, hit, numbers)
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
    from mmseg_tome.evaluation.objects import read_instances

    # Cars (label id 26, train id 13), a group of them without number, a caravan (29, void), road.
    path = write(tmp_path / "ids.png", [[26000, 26001, 26, 29003, 7]])
    label = np.array([[13, 13, 13, VOID, 0]], np.uint8)
    assert read_instances(path, label, VOID).tolist() == [[1, 2, 0, 0, 0]]


def test_the_label_ids_are_those_of_cityscapes(shared):
    from mmseg_tome.evaluation.objects import CITYSCAPES_TRAIN_IDS, read_instances

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
    from mmseg_tome.evaluation.objects import read_instances

    path = write(tmp_path / "ids.png", [[26000] * 9 + [24000]])
    assert read_instances(path, np.full((1, 10), 13, np.uint8), VOID).tolist() == [[1] * 9 + [0]]


def test_the_name_of_the_file():
    from mmseg_tome.evaluation.objects import instance_path

    suffix = ("labelTrainIds", "instanceIds")
    path = "/labelTrainIds/gtFine/a_gtFine_labelTrainIds.png"
    assert instance_path(path, suffix) == "/labelTrainIds/gtFine/a_gtFine_instanceIds.png"
    with pytest.raises(ValueError, match=r"no 'labelTrainIds' in /a\.png"):
        instance_path("/a.png", suffix)


def test_files_that_do_not_fit(tmp_path):
    from mmseg_tome.evaluation.objects import read_instances

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
