"""Jump-Broadcast's keypoints, as the release has them, and its annotations in COCO's format."""

import json

import numpy as np
import pytest
from PIL import Image

from mmseg_tome import compat
from mmseg_tome.registry import DATASETS

pytestmark = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")

# As the release lists them.
RELEASE = """
head neck rsho relb rwri rhan lsho lelb lwri lhan
rhip rkne rank rhee rtoe lhip lkne lank lhee ltoe
---
head-neck neck-rsho rsho-relb relb-rwri rwri-rhan neck-lsho lsho-lelb lelb-lwri lwri-lhan
rsho-rhip rhip-rkne rkne-rank rank-rhee rhee-rtoe
lsho-lhip lhip-lkne lkne-lank lank-lhee lhee-ltoe
"""
NAMES, LINKS = (part.split() for part in RELEASE.split("---"))


def build(**kwargs):
    return DATASETS.build(dict(type="mmseg_tome.JumpBroadcastDataset", **kwargs))


@pytest.fixture
def meta():
    return build(lazy_init=True).metainfo


def test_keypoints_and_skeleton_are_the_releases(meta):
    assert [meta["keypoint_id2name"][i] for i in range(20)] == NAMES
    found = {tuple(sorted((NAMES[a], NAMES[b]))) for a, b in meta["skeleton_links"]}
    assert found == {tuple(sorted(link.split("-"))) for link in LINKS}
    assert len(meta["skeleton_links"]) == 19
    np.testing.assert_allclose(meta["sigmas"], 0.1)
    np.testing.assert_allclose(meta["dataset_keypoint_weights"], 1)
    assert meta["upper_body_ids"] == list(range(10))
    assert meta["lower_body_ids"] == list(range(10, 20))


def test_a_flip_pairs_left_with_right_and_leaves_the_axis(meta):
    flipped = [NAMES[i] for i in meta["flip_indices"]]
    for name, twin in zip(NAMES, flipped, strict=True):
        if name in ("head", "neck"):
            assert twin == name
        else:
            assert (twin[0], twin[1:]) == ("r" if name[0] == "l" else "l", name[1:])


def test_annotations_load(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images/val").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "images/val/jump.jpg")
    points = [value for i in range(20) for value in (10 + i, 20, 2)]
    person = dict(id=1, image_id=7, category_id=1, iscrowd=0, area=100.0, num_keypoints=20)
    person |= dict(bbox=[5, 5, 40, 30], keypoints=points)
    content = dict(
        images=[dict(id=7, file_name="jump.jpg", width=64, height=48)],
        annotations=[person],
        categories=[dict(id=1, name="person")],
    )
    (tmp_path / "annotations/val_jump.json").write_text(json.dumps(content))
    dataset = build(
        data_root=str(tmp_path),
        ann_file="annotations/val_jump.json",
        data_prefix=dict(img="images/val/"),
        test_mode=True,
    )
    assert len(dataset) == 1
    sample = dataset[0]
    assert sample["keypoints"].shape == (1, 20, 2)
    assert sample["img_path"].endswith("images/val/jump.jpg")
