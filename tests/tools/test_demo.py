"""The street demo's renderer, configs, table and picture, and what both demos share.

`make demo` itself runs the whole way.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def scenes():
    import street_scenes

    return street_scenes


@pytest.fixture(scope="module")
def dataset(scenes, tmp_path_factory) -> Path:
    return scenes.write_dataset(tmp_path_factory.mktemp("demo") / "scenes", 3, 2, 96, seed=1)


def images_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.png"))}


def test_a_scene_has_the_promised_shape_and_labels(scenes):
    image, labels = scenes.render_scene(np.random.default_rng(0), 96)
    assert image.shape == (96, 192, 3)
    assert image.dtype == labels.dtype == np.uint8
    assert labels.shape == (96, 192)
    assert set(np.unique(labels)) <= {*range(19), 255}


def test_every_class_occurs_and_can_be_seen(scenes):
    count = np.zeros(256, int)
    for number in range(12):
        _, labels = scenes.render_scene(scenes.scene_rng(0, "train", number), 128)
        count += np.bincount(labels.ravel(), minlength=256)
    share = count[:19] / count.sum()
    assert share.min() > 5e-4, dict(zip(scenes.ID, share.round(5), strict=True))
    assert share[scenes.ID["road"]] < 0.6


def test_no_colour_gives_a_class_away(scenes):
    """The nearest mean colour of a class must be a poor guess: shape and context have to count."""
    rendered = [scenes.render_scene(scenes.scene_rng(0, "train", n), 96) for n in range(6)]
    pixels = np.concatenate([image.reshape(-1, 3) for image, _ in rendered]).astype(float)
    labels = np.concatenate([labels.ravel() for _, labels in rendered])
    classes = [i for i in range(19) if (labels == i).any()]
    means = np.array([pixels[labels == i].mean(axis=0) for i in classes])
    sample = np.random.default_rng(0).choice(np.flatnonzero(labels < 19), 5000)
    distance = ((pixels[sample, None] - means) ** 2).sum(axis=2)
    guess = np.array(classes)[distance.argmin(axis=1)]
    recall = [np.mean(guess[labels[sample] == i] == i) for i in np.unique(labels[sample])]
    assert np.mean(recall) < 0.35


def test_the_same_scene_at_another_height(scenes):
    _, small = scenes.render_scene(np.random.default_rng(3), 128)
    _, large = scenes.render_scene(np.random.default_rng(3), 256)
    assert np.mean(large[::2, ::2] == small) > 0.93


def test_the_same_seed_gives_the_same_bytes(scenes, dataset, tmp_path):
    again = scenes.write_dataset(tmp_path / "again", 3, 2, 96, seed=1)
    other = scenes.write_dataset(tmp_path / "other", 3, 2, 96, seed=2)
    assert images_of(again) == images_of(dataset)
    assert not set(images_of(other).values()) & set(images_of(dataset).values())


def test_training_and_validation_scenes_differ(scenes, dataset):
    files = images_of(dataset)
    assert len(files) == 3 * 5
    assert len(set(files.values())) == len(files)


def test_label_ids_are_those_of_cityscapes(scenes, dataset):
    path = next(dataset.glob("gtFine/val/*/*_labelIds.png"))
    ids = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    train = path.with_name(path.name.replace("labelIds", "labelTrainIds"))
    train_ids = cv2.imread(str(train), cv2.IMREAD_GRAYSCALE)
    for name, label_id in (("road", 7), ("sky", 23), ("pole", 17), ("bicycle", 33)):
        np.testing.assert_array_equal(ids == label_id, train_ids == scenes.ID[name])
    np.testing.assert_array_equal(ids == 0, train_ids == 255)


def test_the_dataset_class_of_mmseg_reads_it(dataset):
    pytest.importorskip("mmengine")
    from mmseg_tome import compat

    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    from mmseg.datasets import CityscapesDataset

    for split, number in (("train", 3), ("val", 2)):
        folders = dict(img_path=f"leftImg8bit/{split}", seg_map_path=f"gtFine/{split}")
        data = CityscapesDataset(data_root=str(dataset), data_prefix=folders, pipeline=[])
        assert len(data) == number
        for i in range(number):
            info = data.get_data_info(i)
            assert Path(info["img_path"]).is_file()
            assert Path(info["seg_map_path"]).is_file()


def test_nothing_is_left_of_an_interrupted_rendering(scenes, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "_write_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        scenes.write_dataset(tmp_path / "scenes", 1, 1, 64)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(scenes, dataset):
    before = images_of(dataset)
    with pytest.raises(FileExistsError, match="exists already"):
        scenes.write_dataset(dataset, 1, 1, 64)
    assert images_of(dataset) == before


def test_too_small_a_scene_is_refused(scenes):
    with pytest.raises(ValueError, match="at least 64"):
        scenes.render_scene(np.random.default_rng(0), 32)


@pytest.fixture(scope="module")
def demo(scenes):
    """The street demo's own steps, as a module."""
    pytest.importorskip("mmengine")
    pytest.importorskip("matplotlib")
    from mmseg_tome import compat

    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    import street_demo

    return street_demo


@pytest.fixture(scope="module")
def common(demo):
    """The steps that both demos share, as a module."""
    return sys.modules["common"]


def test_the_variants_are_one_network(demo):
    from mmengine.config import Config

    backbones = {}
    for variant in demo.VARIANTS:
        cfg = Config.fromfile(str(demo.config(variant)), import_custom_modules=False)
        backbones[variant] = cfg.model.pop("backbone")
        backbones[variant]["rest"] = cfg.model
    presets = {variant: backbone.pop("tome_cfg") for variant, backbone in backbones.items()}
    assert presets == dict(none=None, hq="hq", fast="fast", n2d="n2d")
    assert all(backbone == backbones["none"] for backbone in backbones.values())


def test_table_and_picture(demo, common, dataset, tmp_path):
    """Random weights are enough to fill every field."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from mmseg_tome.registry import MODELS

    init_default_scope("mmseg")
    cfg = Config.fromfile(str(demo.config("none")))
    model = MODELS.build(cfg.model)
    checkpoint = tmp_path / "random.pth"
    torch.save(dict(state_dict=model.state_dict()), checkpoint)

    models = {variant: demo.build(demo.config(variant), checkpoint) for variant in demo.VARIANTS}
    path = demo.scene_file(dataset, demo.richest_scene(dataset, 2))
    image = cv2.imread(str(path))
    x = demo.preprocess(models["none"], image)
    assert x.shape == (1, 3, 96, 192)
    ms = demo.time_forward(models, x, rounds=1)
    assert all(value > 0 for value in ms.values())

    metrics = {"mIoU": 41.25, "mIoU.thin": 12.5, "aAcc": 80.0}
    results = common.common_results(
        argparse.Namespace(iters=1, seed=0),
        models,
        dict.fromkeys(models, metrics),
        sizes=dict(small=(256, 512), large=(1024, 2048)),
        times=dict(small=ms, large=dict.fromkeys(models, 321.0)),
    )
    kept = {variant: row["tokens_kept"] for variant, row in results["variants"].items()}
    assert set(kept["none"].values()) == {100.0}
    assert kept["n2d"] == dict(queries=25.0, keys_values=100.0, pairs=25.0)
    assert kept["fast"]["pairs"] < kept["hq"]["pairs"] < 100
    lines = demo.report.table(results).splitlines()
    rows = [line for line in lines if line.split("|")[0].strip() in demo.VARIANTS]
    assert len(rows) == 4
    assert len({len(row) for row in rows}) == 1
    assert all("41.2" in row and "12.5" in row and "321.0" in row for row in rows)

    labels = cv2.imread(str(demo.label_file(path)), cv2.IMREAD_GRAYSCALE)
    pictures = demo.report.Pictures(
        image=image[..., ::-1],
        labels=labels,
        predictions=dict.fromkeys(demo.VARIANTS, labels),
        slots={variant: demo.slot_maps(model, x) for variant, model in models.items()},
    )
    demo.report.draw(pictures, results, tmp_path / "demo.png")
    drawn = cv2.imread(str(tmp_path / "demo.png"))
    assert drawn.shape[0] > 1000
    assert drawn.std() > 30


# ---- what both demos share -----------------------------------------------------------------------


def test_the_columns_of_a_table_stand_below_their_titles(common):
    row = dict(metrics=dict(a=1.0), tokens_kept=dict(q=2.0, kv=3.0, qkv=4.0), ms=dict(s=5.0, l=6.0))
    results = dict(
        threads=3, sizes=dict(s=(8, 16), l=(64, 128)), variants={"none": row, "longer": row}
    )
    table = common.layout_table(("%", {"A": "a", "B": "b"}), "ms", results, ["a note"])
    assert table.splitlines() == [
        "       |    %     |        tokens kept %        |      ms     ",
        "       |   A    B | queries  keys/values  pairs | 8x16  64x128",
        "-" * 62,
        "  none | 1.0  nan |     2.0          3.0    4.0 |  5.0     6.0",
        "longer | 1.0  nan |     2.0          3.0    4.0 |  5.0     6.0",
        "",
        "a note",
        "pairs: query-key pairs that attention compares; all tokens are summed over all blocks",
        "ms: the network alone, float32, 3 CPU threads, best of several rounds",
    ]


def test_a_failing_tool_is_reported_with_its_last_words(demo, common, tmp_path):
    with pytest.raises(
        common.DemoError, match=r"(?s)tools/test.py ended with code 2.*does not exist"
    ):
        common.run_tool("test.py", demo.config("none"), tmp_path / "missing.pth")


def run_demo(common, out: Path, demonstrate, draw, keep=False) -> None:
    args = argparse.Namespace(out=out, keep=keep)
    common.run_demo(args, demonstrate, draw, lambda results: "the table", suffix="_x")


def test_the_files_of_a_demo_appear_together(common, tmp_path, capsys):
    def demonstrate(work, args):
        (work / "log").write_text("said")
        return {"answer": 42}, "pictures"

    def draw(pictures, results, path):
        path.write_text(f"{pictures} of {results['answer']}")

    out = tmp_path / "out"
    run_demo(common, out, demonstrate, draw)
    assert {path.name for path in out.iterdir()} == {"demo_x.png", "results_x.json"}
    assert (out / "demo_x.png").read_text() == "pictures of 42"
    results = json.loads((out / "results_x.json").read_text())
    assert results["answer"] == 42
    assert results["seconds"] >= 0
    assert "the table" in capsys.readouterr().out

    run_demo(common, out, demonstrate, draw, keep=True)
    assert (out / "run_x" / "log").read_text() == "said"


def test_a_demo_that_fails_leaves_nothing_and_what_was_there(common, tmp_path):
    def fail(*_):
        raise common.DemoError("no paper")

    with pytest.raises(SystemExit, match="error: no paper"):
        run_demo(common, tmp_path / "out", fail, draw=None)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "results_x.json").write_text("earlier")
    with pytest.raises(SystemExit, match="error: no paper"):
        run_demo(common, tmp_path, lambda *_: ({}, None), draw=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["results_x.json"]
    assert (tmp_path / "results_x.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--height", "250"], "--height must be a multiple of 32"),
        (["--iters", "7"], "--iters must be at least 8, not 7"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--out", __file__], "is not a folder"),
    ],
)
def test_bad_arguments_are_refused(demo, monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["street_demo.py", *options])
    with pytest.raises(SystemExit):
        demo.parse_args()
    assert message in capsys.readouterr().err
