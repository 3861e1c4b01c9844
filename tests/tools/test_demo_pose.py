"""The pose demo's renderer, configs, table and picture, and a very short run of it all."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

TRAIN, VAL = 6, 5  # pictures

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def scenes():
    import pose_scenes

    return pose_scenes


@pytest.fixture(scope="module")
def figure(scenes):
    return sys.modules["pose_figure"]


@pytest.fixture(scope="module")
def dataset(scenes, tmp_path_factory) -> Path:
    return scenes.write_dataset(tmp_path_factory.mktemp("demo") / "scenes", TRAIN, VAL, seed=1)


@pytest.fixture(scope="module")
def annotations(dataset) -> dict:
    return json.loads((dataset / "annotations" / "person_keypoints_val.json").read_text())


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ---- the figures ---------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(scenes, dataset, tmp_path):
    again = files_of(scenes.write_dataset(tmp_path / "again", TRAIN, VAL, seed=1))
    other = files_of(scenes.write_dataset(tmp_path / "other", TRAIN, VAL, seed=2))
    files = files_of(dataset)
    assert len(files) == TRAIN + VAL + 2
    assert again == files
    assert not set(other.values()) & set(files.values())


def test_training_and_validation_pictures_differ(dataset):
    files = files_of(dataset)
    assert len(set(files.values())) == len(files)


def test_nothing_is_left_of_an_interrupted_rendering(scenes, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "_annotate", stop)
    with pytest.raises(KeyboardInterrupt):
        scenes.write_dataset(tmp_path / "scenes", 1, 1)
    assert list(tmp_path.iterdir()) == []


def test_hidden_and_outside_keypoints_occur(scenes):
    flags = [
        figure.keypoints[:, 2]
        for number in range(15)
        for figure in scenes.render_scene(scenes.scene_rng(0, "train", number))[1]
    ]
    outside, hidden, visible = np.bincount(np.concatenate(flags).astype(int), minlength=3)
    assert outside > 0
    assert hidden > 0.03 * visible
    assert visible > 0.6 * np.concatenate(flags).size


def paint(figure, pose, look, origin=(100, 100), stature=180):
    image, owners = np.zeros((200, 200, 3), np.uint8), np.zeros((200, 200), np.uint8)
    keypoints = figure.paint_figure(image, owners, pose, look, origin, stature, first_owner=1)
    return image, owners, keypoints


def test_a_keypoint_is_visible_until_something_covers_it(figure):
    rng = np.random.default_rng(0)
    pose = figure.random_pose(rng)
    _, owners, keypoints = paint(figure, pose, figure.random_look(rng))
    seen = [name for name, xy in keypoints.items() if figure.visible(pose, name, xy, owners, 1)]
    assert len(seen) >= 12
    for name in seen:
        x, y = np.round(keypoints[name]).astype(int)
        covered = owners.copy()
        covered[y, x] = 200  # somebody else
        assert not figure.visible(pose, name, keypoints[name], covered, 1)


def test_a_face_is_seen_from_the_front_alone(figure):
    rng = np.random.default_rng(0)
    pose, look = figure.random_pose(rng), figure.random_look(rng)
    turned = np.diag([-1.0, 1.0, -1.0])  # half a turn about the vertical
    back = figure.Pose({name: turned @ xyz for name, xyz in pose.joints.items()}, turned)
    front = figure.Pose(pose.joints, np.eye(3))
    for view, expected in ((front, True), (back, False)):
        _, owners, keypoints = paint(figure, view, look)
        for name in ("nose", "left_eye", "right_eye"):
            assert figure.visible(view, name, keypoints[name], owners, 1) is expected


def test_the_mirror_image_of_a_figure_is_a_figure_with_its_sides_swapped(figure):
    """So a flipped picture with swapped keypoints is one that could have been rendered."""

    def swapped(name: str) -> str:
        other = {"left": "right", "right": "left"}
        side, _, rest = name.partition("_")
        return f"{other[side]}_{rest}" if side in other else name

    mirror = np.array((-1, 1, 1))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pose, look = figure.random_pose(rng), figure.random_look(rng)
        joints = {swapped(name): xyz * mirror for name, xyz in pose.joints.items()}
        mirrored = figure.Pose(joints, pose.facing * np.outer(mirror, mirror))
        image, owners, keypoints = paint(figure, pose, look)
        image2, owners2, keypoints2 = paint(figure, mirrored, look, origin=(99, 100))
        for name, xy in keypoints.items():
            np.testing.assert_allclose(keypoints2[swapped(name)], (199 - xy[0], xy[1]))
        parts = [0, *(1 + figure.PARTS.index(swapped(part)) for part in figure.PARTS)]
        assert np.mean(np.array(parts)[owners2[:, ::-1]] == owners) > 0.99
        assert np.abs(image2[:, ::-1].astype(int) - image).mean() < 1


# ---- the data set --------------------------------------------------------------------------------


def test_annotations_are_those_of_coco(scenes, annotations):
    (category,) = annotations["categories"]
    assert category["name"] == "person"
    assert [image["id"] for image in annotations["images"]] == list(range(VAL))
    assert {a["image_id"] for a in annotations["annotations"]} == set(range(VAL))
    ids = [annotation["id"] for annotation in annotations["annotations"]]
    assert ids == sorted(set(ids))
    for annotation in annotations["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= scenes.WIDTH
        assert 0 <= y < y + height <= scenes.HEIGHT
        assert 0 < annotation["area"] < width * height
        assert annotation["iscrowd"] == 0
        points = np.array(annotation["keypoints"]).reshape(17, 3)
        labelled = points[:, 2] > 0
        assert set(points[:, 2]) <= {0, 1, 2}
        assert annotation["num_keypoints"] == labelled.sum()
        assert (points[:, 2] == 2).sum() >= scenes.MIN_VISIBLE
        assert not points[~labelled].any()
        inside = (points[labelled, :2] >= (x - 1, y - 1)) & (
            points[labelled, :2] <= (x + width, y + height)
        )
        assert inside.all()


@pytest.fixture(scope="module")
def coco(dataset):
    """Build mmpose's data set of the validation pictures with a pipeline."""
    pytest.importorskip("mmengine")
    from mmseg_tome import compat

    if not compat.has("mmpose"):
        pytest.skip("needs mmpose")
    from mmengine.registry import init_default_scope
    from mmpose.datasets import CocoDataset

    init_default_scope("mmpose")

    def build(pipeline=(), test_mode=False):
        return CocoDataset(
            data_root=str(dataset),
            data_mode="topdown",
            ann_file="annotations/person_keypoints_val.json",
            data_prefix=dict(img="val/"),
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    return build


def test_the_dataset_class_of_mmpose_reads_it(coco, scenes, annotations):
    data = coco()
    assert len(data) == len(annotations["annotations"])
    names = [data.metainfo["keypoint_id2name"][i] for i in range(17)]
    assert names == annotations["categories"][0]["keypoints"] == list(scenes.KEYPOINTS)
    links = {tuple(sorted(pair)) for pair in np.array(scenes.SKELETON) - 1}
    assert links == {tuple(sorted(pair)) for pair in data.metainfo["skeleton_links"]}
    for i, annotation in enumerate(annotations["annotations"]):
        info = data.get_data_info(i)
        assert cv2.imread(info["img_path"]).shape == (scenes.HEIGHT, scenes.WIDTH, 3)
        assert info["keypoints_visible"].sum() == annotation["num_keypoints"]


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_left_is_left_before_and_after_a_flip(coco, annotations, prob):
    """Of two eyes that one sees, the person's left one is the right one in the picture."""
    load = [dict(type="LoadImage"), dict(type="GetBBoxCenterScale")]
    data = coco([*load, dict(type="RandomFlip", direction="horizontal", prob=prob)])
    faces = 0
    for i, annotation in enumerate(annotations["annotations"]):
        sample = data[i]
        assert sample["flip"] is bool(prob)
        eyes = [annotation["keypoints"][3 * k + 2] == 2 for k in (1, 2)]
        if all(eyes):
            faces += 1
            left, right = sample["keypoints"][0, 1:3, 0]
            assert left > right
    assert faces >= 3


def test_the_truth_scores_full_marks(coco, dataset, annotations):
    from mmpose.evaluation import CocoMetric, PCKAccuracy

    data = coco(test_mode=True)
    samples = []
    for i in range(len(data)):
        info = data.get_data_info(i)
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
        metric.dataset_meta = data.metainfo
        metric.process([], samples)
        return metric.evaluate(len(samples))

    def average_precision(samples) -> float:
        file = dataset / "annotations" / "person_keypoints_val.json"
        return score(CocoMetric(ann_file=str(file)), samples)["coco/AP"]

    assert average_precision(samples) == pytest.approx(1.0)
    assert score(PCKAccuracy(thr=0.05, prefix="x"), samples)["x/PCK"] == pytest.approx(1.0)
    for sample in samples:  # the same points with left and right swapped
        found = sample["pred_instances"]
        found["keypoints"] = found["keypoints"][:, data.metainfo["flip_indices"]]
    assert average_precision(samples) < 0.5


# ---- the demo ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(scenes):
    """The orchestration, as a module."""
    pytest.importorskip("mmengine")
    pytest.importorskip("matplotlib")
    import pose_demo

    return pose_demo


@pytest.fixture
def needs_mmpose(demo):
    if not demo.compat.has("mmpose"):
        pytest.skip("needs mmpose")


def test_the_variants_are_one_network(demo):
    from mmengine.config import Config

    rest, presets = [], {}
    for variant in demo.VARIANTS:
        file = demo.config(variant)
        cfg = Config.fromfile(str(file), import_custom_modules=False)
        presets[variant] = cfg.model.backbone.pop("tome_cfg")
        rest.append(cfg.to_dict())
    assert presets == dict(none=None, hq="hq", fast="fast", n2d="n2d")
    assert all(cfg == rest[0] for cfg in rest)


def test_without_mmpose_one_line_says_how_to_get_it(demo, monkeypatch, tmp_path):
    monkeypatch.setattr(demo.compat, "has", lambda package: package != "mmpose")
    monkeypatch.setattr(sys, "argv", ["pose_demo.py", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^error: mmpose .*tools/install_mmpose.sh \S+$"):
        demo.main()
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_refused(demo, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pose_demo.py", "--iters", "7"])
    with pytest.raises(SystemExit):
        demo.parse_args()
    assert "--iters must be at least 8, not 7" in capsys.readouterr().err


def fabricated(demo) -> dict:
    row = dict(
        metrics={"PCK@0.1": 91.25, "PCK@0.05": 80.5, "AP": 61.0},
        tokens_kept=dict(queries=90.0, keys_values=60.0, pairs=10.0),
        ms=dict(small=7.5, medium=40.5, large=121.0),
    )
    variants = dict.fromkeys(demo.VARIANTS, row)
    return dict(persons=9, threads=1, sizes=demo.SIZES, variants=variants)


def test_the_table_has_every_number(demo):
    lines = demo.report.table(fabricated(demo)).splitlines()
    rows = [line.split("|") for line in lines if line.split("|")[0].strip() in demo.VARIANTS]
    assert len(rows) == 4
    for _, accuracy, tokens, ms in rows:
        assert accuracy.split() == ["91.2", "80.5", "61.0"]
        assert tokens.split() == ["90.0", "60.0", "10.0"]
        assert ms.split() == ["7.5", "40.5", "121.0"]
    assert lines[1].split("|")[1].split() == ["PCK@0.1", "PCK@0.05", "AP"]
    assert any("9 persons" in line for line in lines)


def test_the_picture_marks_what_is_off(demo, tmp_path):
    """One more prediction that is off is one more red ring, and nothing else changes."""
    import torch

    from mmseg_tome.merging import SlotMap

    rng = np.random.default_rng(0)
    truth = rng.uniform(20, 170, (17, 2))
    slots = {
        (stage, 0, kind): (SlotMap(torch.arange(48)[None] // 4, 12), (8, 6))
        for stage in (0, 2)
        for kind in ("q", "kv")
    }

    def red(off: int) -> int:
        found = truth.copy()
        found[:off] += 20
        person = demo.report.Person(
            image=np.full((256, 192, 3), 128, np.uint8),
            truth=truth,
            labelled=np.arange(17) != 16,  # the last one lies outside
            box=200.0,
            predictions=dict.fromkeys(demo.VARIANTS, found),
            slots=dict.fromkeys(demo.VARIANTS, slots),
        )
        file = tmp_path / f"{off}.png"
        demo.report.draw([person], fabricated(demo), file)
        blue, green, red = cv2.imread(str(file)).astype(int).transpose(2, 0, 1)
        return int(((red > 200) & (green < 60) & (blue < 80)).sum())

    assert 0 < red(0) < red(1) < red(2)  # the legend shows a ring, too


def test_persons_are_shown_of_different_pictures_clearest_first(demo, dataset, needs_mmpose):
    data = demo.persons(dataset)
    raw = [data.get_data_info(i)["raw_ann_info"] for i in demo.clearest(data, VAL)]
    assert len({annotation["image_id"] for annotation in raw}) == VAL
    seen = [annotation["keypoints"][2::3].count(2) for annotation in raw]
    assert seen[0] >= 15


def test_a_very_short_run(demo, needs_mmpose, monkeypatch, tmp_path, capsys):
    small = dict(SIZES={"small": (256, 192), "large": (320, 256)}, VARIANTS=("fast",))
    for name, value in dict(small, NUM_TRAIN=4, NUM_VAL=3, NUM_SHOWN=1).items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "ROUNDS", {"small": 1, "large": 1})
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["pose_demo.py", "--out", str(out), "--iters", "8"])
    demo.main()

    assert {path.name for path in out.iterdir()} == {"demo_pose.png", "results_pose.json"}
    results = json.loads((out / "results_pose.json").read_text())
    assert list(results["variants"]) == ["fast"]
    row = results["variants"]["fast"]
    assert set(row["metrics"]) == {"PCK@0.1", "PCK@0.05", "AP"}
    assert all(0 <= value <= 100 for value in row["metrics"].values())
    assert all(value > 0 for value in row["ms"].values())
    assert row["tokens_kept"]["pairs"] < 20
    assert cv2.imread(str(out / "demo_pose.png")).std() > 30
    said = capsys.readouterr().out
    assert said.index("[1/5] rendering") < said.index("[5/5] drawing") < said.index("ms per person")
