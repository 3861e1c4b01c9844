"""The rendered streets: labels as in Cityscapes, keypoints as in COCO."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_tome import compat
from mmseg_tome.lab.demo import dataset as data
from mmseg_tome.lab.demo.canvas import ID, Billboard, Camera, Canvas
from mmseg_tome.lab.demo.figure import KEYPOINTS, SKELETON, Pose, paint_figure, random_pose
from mmseg_tome.lab.demo.scene import MIN_VISIBLE, render_scene

TRAIN, VAL, HEIGHT = 2, 3, 160


@pytest.fixture(scope="module")
def scenes() -> list:
    return [render_scene(data.scene_rng(0, "train", n), 128) for n in range(10)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return data.write_dataset(
        tmp_path_factory.mktemp("demo") / "scenes", TRAIN, VAL, HEIGHT, seed=1
    )


@pytest.fixture(scope="module")
def annotations(root) -> dict:
    return json.loads((root / "annotations" / "person_keypoints_val.json").read_text())


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- labels --------------------------------------------------------------------------------------


def test_a_scene_has_the_promised_shapes_and_labels(scenes):
    image, labels, _ = scenes[0]
    assert image.shape == (128, 256, 3)
    assert labels.shape == (128, 256)
    assert image.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {*range(19), 255}


def test_every_class_occurs_and_can_be_seen(scenes):
    count = sum(np.bincount(scene.labels.ravel(), minlength=256) for scene in scenes)
    share = count[:19] / count.sum()
    assert share.min() > 5e-4, dict(zip(ID, share.round(5), strict=True))
    assert share[ID["road"]] < 0.6


def test_no_colour_gives_a_class_away(scenes):
    """The nearest mean colour of a class must be a poor guess: shape and context have to count."""
    pixels = np.concatenate([scene.image.reshape(-1, 3) for scene in scenes]).astype(float)
    labels = np.concatenate([scene.labels.ravel() for scene in scenes])
    means = np.array([pixels[labels == i].mean(axis=0) for i in range(19)])
    sample = np.random.default_rng(0).choice(np.flatnonzero(labels < 19), 5000)
    guess = ((pixels[sample, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    recall = [np.mean(guess[labels[sample] == i] == i) for i in np.unique(labels[sample])]
    assert np.mean(recall) < 0.35


def test_the_same_scene_at_another_height():
    _, small, few = render_scene(np.random.default_rng(3), 128)
    _, large, many = render_scene(np.random.default_rng(3), 256)
    assert np.mean(large[::2, ::2] == small) > 0.93
    assert len(few) == len(many) > 0
    for one, other in zip(few, many, strict=True):
        np.testing.assert_allclose(2 * one.keypoints[:, :2], other.keypoints[:, :2], atol=1)


def test_label_ids_are_those_of_cityscapes(root):
    image = data.image_file(root, "val", 0)
    ids, train_ids = (
        cv2.imread(str(data.label_file(image, kind)), cv2.IMREAD_GRAYSCALE)
        for kind in ("labelIds", "labelTrainIds")
    )
    for name, label_id in (("road", 7), ("sky", 23), ("pole", 17), ("bicycle", 33)):
        np.testing.assert_array_equal(ids == label_id, train_ids == ID[name])
    np.testing.assert_array_equal(ids == 0, train_ids == 255)


def test_the_dataset_class_of_mmseg_reads_it(root):
    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    from mmseg.datasets import CityscapesDataset

    for split, number in (("train", TRAIN), ("val", VAL)):
        folders = dict(img_path=f"leftImg8bit/{split}", seg_map_path=f"gtFine/{split}")
        found = CityscapesDataset(data_root=str(root), data_prefix=folders, pipeline=[])
        assert len(found) == number
        for i in range(number):
            info = found.get_data_info(i)
            assert Path(info["img_path"]).is_file()
            assert Path(info["seg_map_path"]).is_file()


# ---- files ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(root, tmp_path):
    files = files_of(root)
    assert len(files) == 3 * (TRAIN + VAL) + 2
    assert files_of(data.write_dataset(tmp_path / "again", TRAIN, VAL, HEIGHT, seed=1)) == files
    other = files_of(data.write_dataset(tmp_path / "other", 1, 1, HEIGHT, seed=2))
    assert not set(other.values()) & set(files.values())


def test_training_and_validation_scenes_differ(root):
    images = [data for name, data in files_of(root).items() if "leftImg8bit" in name]
    assert len(set(images)) == TRAIN + VAL


def test_nothing_is_left_of_an_interrupted_rendering(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "_annotate", stop)
    with pytest.raises(KeyboardInterrupt):
        data.write_dataset(tmp_path / "scenes", 1, 1, 64)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(root):
    before = files_of(root)
    with pytest.raises(data.FolderExistsError, match="exists already"):
        data.write_dataset(root, 1, 1, 64)
    assert files_of(root) == before


def test_too_small_a_scene_is_refused():
    with pytest.raises(ValueError, match="at least 64"):
        render_scene(np.random.default_rng(0), 32)


# ---- persons -------------------------------------------------------------------------------------


def test_hidden_and_outside_keypoints_occur(scenes):
    flags = np.concatenate([p.keypoints[:, 2] for scene in scenes for p in scene.persons])
    outside, hidden, visible = np.bincount(flags.astype(int), minlength=3)
    assert hidden > 0.03 * visible
    assert visible > 0.6 * len(flags)
    assert outside < visible


def painted(pose: Pose, seed: int = 0) -> tuple[Canvas, np.ndarray, np.ndarray]:
    """A person who stands alone before the camera, the keypoints, and which of them face it."""
    canvas = Canvas(Camera(200, horizon=0.4), haze=(0, 0, 0), visibility=1e9)
    return canvas, *paint_figure(Billboard(canvas, 0, 3), np.random.default_rng(seed), 256, pose)


def test_keypoints_lie_on_the_person(scenes):
    for seed in range(5):
        canvas, xy, _ = painted(random_pose(np.random.default_rng(seed)), seed)
        cols, rows = np.round(xy).astype(int).T
        assert canvas.owners[rows, cols].sum() >= len(KEYPOINTS) - 1  # an ear may stand out


def test_a_face_is_seen_from_the_front_alone():
    pose = random_pose(np.random.default_rng(0))
    half = np.diag([-1.0, 1.0, -1.0])  # a turn about the vertical
    back = Pose({name: half @ xyz for name, xyz in pose.joints.items()}, half)
    front = Pose(pose.joints, np.eye(3))
    assert painted(front)[2][:3].all()
    assert not painted(back)[2][:3].any()
    assert painted(back)[2][5:].all()


def test_the_mirror_image_of_a_person_is_a_person_with_its_sides_swapped():
    """So a flipped picture with swapped keypoints is one that could have been rendered."""

    def swapped(name: str) -> str:
        side, _, rest = name.partition("_")
        return f"{dict(left='right', right='left')[side]}_{rest}" if rest else name

    mirror = np.array((-1, 1, 1))
    for seed in range(5):
        pose = random_pose(np.random.default_rng(seed))
        joints = {swapped(name): xyz * mirror for name, xyz in pose.joints.items()}
        mirrored = Pose(joints, pose.facing * np.outer(mirror, mirror))
        (one, xy, _), (other, xy2, _) = painted(pose, seed), painted(mirrored, seed)
        order = [KEYPOINTS.index(swapped(name)) for name in KEYPOINTS]
        np.testing.assert_allclose(xy2[order], (one.camera.width, 0) + xy * (-1, 1), atol=1e-6)
        assert np.mean(other.owners[:, ::-1] == one.owners) > 0.99
        assert np.abs(other.image[:, ::-1].astype(int) - one.image).mean() < 1.5


def test_annotations_are_those_of_coco(annotations):
    (category,) = annotations["categories"]
    assert category["name"] == "person"
    assert [image["id"] for image in annotations["images"]] == list(range(VAL))
    ids = [annotation["id"] for annotation in annotations["annotations"]]
    assert ids == sorted(set(ids))
    assert len(ids) >= VAL
    for annotation in annotations["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= 2 * HEIGHT
        assert 0 <= y < y + height <= HEIGHT
        assert 0 < annotation["area"] < width * height
        points = np.array(annotation["keypoints"]).reshape(17, 3)
        labelled = points[:, 2] > 0
        assert annotation["num_keypoints"] == labelled.sum()
        assert (points[:, 2] == 2).sum() >= MIN_VISIBLE
        assert not points[~labelled].any()
        inside = (points[labelled, :2] >= (x - 1, y - 1)) & (
            points[labelled, :2] <= (x + width, y + height)
        )
        assert inside.all()


@pytest.fixture(scope="module")
def coco(root):
    """Build mmpose's data set of the validation scenes with a pipeline."""
    if not compat.has("mmpose"):
        pytest.skip("needs mmpose")
    from mmengine.registry import init_default_scope
    from mmpose.datasets import CocoDataset

    init_default_scope("mmpose")

    def build(pipeline=(), test_mode=False):
        return CocoDataset(
            data_root=str(root),
            data_mode="topdown",
            ann_file="annotations/person_keypoints_val.json",
            data_prefix=dict(img="leftImg8bit/val/"),
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    return build


def test_the_dataset_class_of_mmpose_reads_it(coco, annotations):
    found = coco()
    assert len(found) == len(annotations["annotations"])
    assert [found.metainfo["keypoint_id2name"][i] for i in range(17)] == list(KEYPOINTS)
    links = {tuple(sorted(pair)) for pair in np.array(SKELETON) - 1}
    assert links == {tuple(sorted(pair)) for pair in found.metainfo["skeleton_links"]}
    for i, annotation in enumerate(annotations["annotations"]):
        info = found.get_data_info(i)
        assert cv2.imread(info["img_path"]).shape == (HEIGHT, 2 * HEIGHT, 3)
        assert info["keypoints_visible"].sum() == annotation["num_keypoints"]


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_left_is_left_before_and_after_a_flip(coco, annotations, prob):
    """Of two eyes that one sees, the person's left one is the right one in the picture."""
    load = [dict(type="LoadImage"), dict(type="GetBBoxCenterScale")]
    found = coco([*load, dict(type="RandomFlip", direction="horizontal", prob=prob)])
    faces = 0
    for i, annotation in enumerate(annotations["annotations"]):
        sample = found[i]
        assert sample["flip"] is bool(prob)
        eyes = [annotation["keypoints"][3 * k + 2] == 2 for k in (1, 2)]
        if all(eyes):
            faces += 1
            left, right = sample["keypoints"][0, 1:3, 0]
            assert left > right
    assert faces >= 3


def test_the_truth_scores_full_marks(coco, root):
    from mmpose.evaluation import CocoMetric, PCKAccuracy

    persons = coco(test_mode=True)
    samples = []
    for i in range(len(persons)):
        info = persons.get_data_info(i)
        corners = info["bbox"]
        found = dict(keypoints=info["keypoints"], keypoint_scores=np.ones((1, 17)))
        truth = dict(
            keypoints=info["keypoints"],
            keypoints_visible=info["keypoints_visible"],
            bboxes=corners,
            bbox_scores=np.ones(1),
            bbox_scales=corners[:, 2:] - corners[:, :2],
        )
        sample = {key: info[key] for key in ("id", "img_id", "category_id")}
        samples.append(dict(sample, pred_instances=found, gt_instances=truth))

    def score(metric, samples):
        metric.dataset_meta = persons.metainfo
        metric.process([], samples)
        return metric.evaluate(len(samples))

    def average_precision(samples) -> float:
        file = root / "annotations" / "person_keypoints_val.json"
        return score(CocoMetric(ann_file=str(file)), samples)["coco/AP"]

    assert average_precision(samples) == pytest.approx(1.0)
    assert score(PCKAccuracy(thr=0.05, prefix="x"), samples)["x/PCK"] == pytest.approx(1.0)
    for sample in samples:  # the same points with left and right swapped
        found = sample["pred_instances"]
        found["keypoints"] = found["keypoints"][:, persons.metainfo["flip_indices"]]
    assert average_precision(samples) < 0.5
