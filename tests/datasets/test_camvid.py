"""CamVidDataset: the real train and val splits, suffixes, and its error messages."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg")
DATASETS = pytest.importorskip("mmseg_tome.registry").DATASETS

PIPELINE = [dict(type="LoadImageFromFile"), dict(type="mmseg.LoadAnnotations")]


def build(root, split="train", **kwargs):
    prefix = dict(img_path=f"images/{split}", seg_map_path=f"labels/{split}")
    options = dict(data_root=str(root), data_prefix=prefix, pipeline=PIPELINE) | kwargs
    return DATASETS.build(dict(type="mmseg_tome.CamVidDataset", **options))


@pytest.fixture
def camvid(tmp_path):
    """A CamVid of two 6x4 (w, h) frames."""
    for kind, mode in (("images", "RGB"), ("labels", "L")):
        (tmp_path / kind / "train").mkdir(parents=True)
        for name in ("0006R0_f00930", "0006R0_f00960"):
            Image.new(mode, (6, 4)).save(tmp_path / kind / "train" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(("split", "frames"), [("train", 367), ("val", 101)])
def test_real_split(shared, split, frames):
    dataset = build(shared / "data/camvid", split)
    assert len(dataset) == frames
    assert dataset.img_suffix == ".jpg"
    sample = dataset[frames - 1]
    assert sample["img"].shape == (360, 480, 3)
    assert sample["gt_seg_map"].shape == (360, 480)
    stem = dataset.get_data_info(frames - 1)["img_path"].rsplit("/", 1)[1][:-4]
    assert dataset.get_data_info(frames - 1)["seg_map_path"].endswith(f"labels/{split}/{stem}.png")


def test_classes_lie_where_they_should(shared):
    """Mean position and frequency tell the order of the classes apart."""
    dataset = build(shared / "data/camvid", "val")
    count = np.zeros(256, int)
    height = np.zeros(256)
    for i in range(0, len(dataset), 10):
        label = dataset[i]["gt_seg_map"]
        rows = np.broadcast_to(np.linspace(0, 1, label.shape[0])[:, None], label.shape)
        count += np.bincount(label.ravel(), minlength=256)
        height += np.bincount(label.ravel(), rows.ravel(), minlength=256)
    assert not count[11:255].any()
    assert count[255] > 0
    assert (count[:11] > 0).all()
    classes = list(dataset.metainfo["classes"])
    share = dict(zip(classes, count[:11] / count.sum(), strict=True))
    mean = dict(zip(classes, height[:11] / count[:11], strict=True))
    top_down = ["Sky", "Tree", "SignSymbol", "Building", "Pole", "Pedestrian", "Pavement", "Road"]
    assert sorted(top_down, key=mean.get) == top_down
    assert sorted(share, key=share.get)[-3:] == ["Tree", "Building", "Road"]
    assert max(share["Pole"], share["SignSymbol"], share["Fence"]) < 0.05


def test_png_is_found_by_itself(camvid):
    dataset = build(camvid)
    assert len(dataset) == 2
    assert dataset.img_suffix == ".png"
    assert dataset.metainfo["reduce_zero_label"] is False


def test_mixed_suffixes_need_a_choice(camvid):
    Image.new("RGB", (6, 4)).save(camvid / "images/train/0006R0_f00930.jpg")
    with pytest.raises(ValueError, match=r"mixes \.jpg, \.png.*img_suffix"):
        build(camvid)
    assert len(build(camvid, img_suffix=".jpg")) == 1


def test_without_labels(camvid):
    dataset = build(camvid, data_prefix=dict(img_path="images/train"), pipeline=PIPELINE[:1])
    assert len(dataset) == 2
    assert "gt_seg_map" not in dataset[0]


def test_subset_of_classes_is_remapped(camvid):
    dataset = build(camvid, metainfo=dict(classes=("Road", "Car")))
    assert dataset.label_map[3] == 0
    assert dataset.label_map[8] == 1
    assert dataset.label_map[0] == 255


def test_ann_file_selects_and_is_checked(camvid):
    (camvid / "some.txt").write_text("0006R0_f00960\n")
    assert len(build(camvid, ann_file="some.txt")) == 1
    (camvid / "some.txt").write_text("0006R0_f00960\n0006R0_f77777\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images .*0006R0_f77777\.png"):
        build(camvid, ann_file="some.txt")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["images/train"], "folder of images not found: .*images/train"),
        (["labels/train"], "folder of labels not found: .*labels/train"),
        (["labels/train/0006R0_f00960.png"], "1 of 2 labels .*0006R0_f00960.png"),
        (
            ["images/train/0006R0_f00930.png", "images/train/0006R0_f00960.png"],
            "no images .* in .*images/train",
        ),
    ],
)
def test_missing_data_says_how_to_get_it(camvid, remove, message):
    for i, path in enumerate(remove):
        (camvid / path).rename(camvid / f"elsewhere{i}")
    with pytest.raises(FileNotFoundError, match=message) as caught:
        build(camvid)
    assert "tools/convert_camvid.py" in str(caught.value)
    assert "701_StillsRaw_full" in str(caught.value)


def test_given_suffix_without_images(camvid):
    with pytest.raises(FileNotFoundError, match=r"no \.jpg images"):
        build(camvid, img_suffix=".jpg")
