"""Classes and labels that do not fit a model are named before anything runs on them."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.runner import BaseLoop
from torch import nn

from mmseg_tome import compat
from mmseg_tome.datasets.checks import check_segmentation
from mmseg_tome.errors import DataError
from mmseg_tome.hooks import DatasetGuardHook

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

CLASSES = ("road", "sky", "car")


@pytest.fixture
def build(tmp_path):
    """A data set of labels, each an array or the bytes of its file."""
    from mmseg.datasets import BaseSegDataset

    def run(*labels, classes=CLASSES, size=(6, 8), count=1, **options):
        for kind in ("img", "ann"):
            (tmp_path / kind).mkdir(exist_ok=True)
        for i, label in enumerate(labels * count):
            cv2.imwrite(str(tmp_path / f"img/{i}.jpg"), np.zeros((*size, 3), np.uint8))
            path = tmp_path / f"ann/{i}.png"
            if isinstance(label, bytes):
                path.write_bytes(label)
            else:
                cv2.imwrite(str(path), label)
        return BaseSegDataset(
            data_root=str(tmp_path),
            data_prefix=dict(img_path="img", seg_map_path="ann"),
            metainfo=dict(classes=classes) if classes else None,
            pipeline=[dict(type="LoadImageFromFile"), dict(type="mmseg.LoadAnnotations")],
            serialize_data=False,
            **options,
        )

    return run


def label(*values) -> np.ndarray:
    return np.resize(np.array(values, np.uint8), (6, 8))


def head(num_classes=3, out_channels=None, ignore_index=255) -> nn.Module:
    made = nn.Module()
    made.num_classes, made.ignore_index = num_classes, ignore_index
    made.out_channels = out_channels or num_classes
    return made


def model(num_classes=3, **options) -> nn.Module:
    made = nn.Module()
    made.decode_head = head(num_classes, **options)
    return made


def refusal(dataset, made=None, training=True) -> str:
    with pytest.raises(DataError) as caught:
        check_segmentation(dataset, made or model(), training)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("training", [True, False])
def test_what_fits_passes(build, training):
    check_segmentation(build(label(0, 1, 2), label(0, 255), label(1)), model(), training)
    check_segmentation(build(label(0, 1)), nn.Module(), training)


@pytest.mark.parametrize("number", [2, 19])
def test_class_counts(build, number):
    line = refusal(build(label(0, 1)), model(number), False)
    assert (
        f"has 3 classes, the model predicts {number}: set model.decode_head.num_classes=3" in line
    )


def test_class_counts_of_other_heads(build):
    made = model()
    made.auxiliary_head = nn.ModuleList([head(), head(19)])
    assert "set model.auxiliary_head.1.num_classes=3" in refusal(build(label(0, 1)), made)
    check_segmentation(build(label(0, 1)), made, training=False)  # they do not predict
    made = model()
    made.decode_head = nn.ModuleList([head(), head(4)])
    assert "model.decode_head.1.num_classes=3" in refusal(build(label(0, 1)), made, False)


@pytest.mark.parametrize("count", [1, 2])
def test_one_channel_is_for_two_classes(build, count):
    check_segmentation(build(label(0, 1), classes=("no", "yes")), model(2, out_channels=1), True)
    one = build(label(0), classes=("yes",))
    check_segmentation(one, model(count, out_channels=1), True)
    check_segmentation(
        build(label(0, 1), classes=("no", "yes")), model(count, out_channels=1), True
    )
    line = refusal(build(label(0, 2), classes=("no", "yes")), model(count, out_channels=1))
    assert "holds 2, but the model's classes are 0 to 1" in line
    assert "has 3 classes" in refusal(build(label(0, 1)), model(2, out_channels=1))


def test_a_model_behind_test_time_augmentation(build):
    wrapped = nn.Module()
    wrapped.module = model(19)
    assert "predicts 19" in refusal(build(label(0, 1)), wrapped, False)


def test_values_that_are_no_class(build, tmp_path):
    line = refusal(build(label(0, 1), label(0, 3, 6)))
    assert line.startswith(f"label {tmp_path}/ann/1.png holds 3, 6, but the model's classes are 0 ")
    line = refusal(build(label(0, 1, 2), classes=None), model(2))
    assert "holds 2, but the model's classes are 0 to 1" in line


def test_the_first_value_may_stand_for_none(build):
    ade = build(label(0, 1, 3), reduce_zero_label=True)
    check_segmentation(ade, model(), True)
    assert "does the data set need reduce_zero_label" in refusal(build(label(0, 1, 3))).lower()


def test_what_is_ignored_differs_between_loss_and_metric(build):
    dataset = build(label(0, 1, 9), ignore_index=9)
    check_segmentation(dataset, model(), training=False)
    assert "holds 9" in refusal(dataset, model())
    check_segmentation(dataset, model(ignore_index=9), training=True)


def test_colours(build):
    colours = np.zeros((6, 8, 3), np.uint8)
    assert "has 3 channels: a label is a grey PNG" in refusal(build(label(0, 1), colours))
    with_alpha = np.zeros((6, 8, 4), np.uint8)
    assert "has 4 channels" in refusal(build(with_alpha))


@pytest.mark.parametrize("count", [1, 9, 100])
def test_masks_of_0_and_255(build, count):
    line = refusal(build(label(0, 255), count=count))
    assert f"the {min(count, 60)} labels looked at hold nothing but 0, 255, and 255 stands" in line


def test_masks_of_0_and_255_among_others(build):
    labels = [label(0, 255)] * 40 + [label(1)] * 20
    check_segmentation(build(*labels), model(), True)
    check_segmentation(build(label(0), count=3), model(), True)  # a class alone says nothing


def test_palettes_are_indices(build, tmp_path):
    from PIL import Image

    image = Image.fromarray(label(0, 1, 2), mode="L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    dataset = build(label(0))
    image.putdata(label(0, 1, 2).ravel().tolist())
    image.save(tmp_path / "ann/0.png")
    check_segmentation(dataset, model(), True)


def test_labels_of_16_bits(build):
    check_segmentation(build(label(0, 1, 2).astype(np.uint16)), model(), True)
    line = refusal(build(label(0, 1).astype(np.uint16) + 256))  # which would be cut to 0 and 1
    assert "holds 257: labels of more than 8 bits are cut off" in line


def test_damaged_and_of_another_size(build):
    assert "0.png cannot be read: " in refusal(build(b"nothing"))
    line = refusal(build(label(0, 1), size=(12, 16)))
    assert "0.png has 8x6 pixels, its image" in line
    check_segmentation(build(label(0, 1), size=(8, 6)), model(), True)  # EXIF may turn it


def test_before_a_run_inside_wrappers(build):
    loop = object.__new__(type("Loop", (BaseLoop,), {"run": None}))
    runner = SimpleNamespace(model=model(), _train_loop=loop, _val_loop=None, _test_loop=None)
    bad = build(label(0, 7))
    for dataset in (bad, RepeatDataset(bad, 3), ConcatDataset([bad, bad])):
        loop.dataloader = SimpleNamespace(dataset=dataset)
        with pytest.raises(DataError, match=r"0\.png holds 7"):
            DatasetGuardHook().before_run(runner)
