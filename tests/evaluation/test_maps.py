import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")


def sample(pred, label, **fields):
    return dict(
        pred_sem_seg=dict(data=torch.tensor(pred)),
        gt_sem_seg=dict(data=torch.tensor(label)),
        **fields,
    )


@pytest.mark.parametrize(("classes", "dtype"), [(3, np.uint8), (300, np.uint16)])
def test_void_is_void_in_both_and_other_labels_are_no_class(classes, dtype):
    from mmseg_tome.evaluation.maps import read_maps

    maps = read_maps(sample([[[0, 1, 2, 2]]], [[[2, 255, -7, 301]]]), classes)
    assert maps.pred.dtype == maps.label.dtype == dtype
    assert maps.pred.tolist() == [[0, maps.void, 2, 2]]
    assert maps.label.tolist() == [[2, maps.void, classes, classes]]


def test_another_void_and_predictions_of_binary_models():
    from mmseg_tome.evaluation.maps import read_maps

    maps = read_maps(sample([[[1.0, 0.0]]], [[[-1, 1]]]), 2, ignore_index=-1)
    assert maps.pred.tolist() == [[255, 0]]
    assert maps.label.tolist() == [[255, 1]]


def test_the_sample_is_left_as_it_is():
    from mmseg_tome.evaluation.maps import read_maps

    given = sample([[[1, 0]]], [[[255, 9]]])
    read_maps(given, 2)
    assert given["pred_sem_seg"]["data"].tolist() == [[[1, 0]]]
    assert given["gt_sem_seg"]["data"].tolist() == [[[255, 9]]]


def test_errors_name_the_image():
    from mmseg_tome.evaluation.maps import read_maps

    with pytest.raises(ValueError, match=r"a\.png has no label"):
        read_maps(dict(img_path="a.png", pred_sem_seg=dict(data=torch.zeros(1, 2, 2))), 2)
    with pytest.raises(ValueError, match=r"b\.png has \(1, 2\) pixels, its label \(2, 1\)"):
        read_maps(sample([[[0, 0]]], [[[0], [0]]], img_path="b.png"), 2)


def test_percentages_leave_out_what_has_no_score():
    from mmseg_tome.evaluation.maps import percentages

    scores = np.array([0.5, np.nan, 0.25])
    assert percentages(scores, "abc", "mIoU", None) == {"mIoU": 37.5}
    assert percentages(scores, "abc", "m", "x") == {"m": 37.5, "x.a": 50.0, "x.c": 25.0}
    assert percentages(np.full(3, np.nan), "abc", "m", "x") == {}
