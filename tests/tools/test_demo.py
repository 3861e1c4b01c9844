"""The demo's renderer, configs, table and picture. `make demo` itself runs the whole way."""

import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools" / "demo"

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def scenes():
    sys.path.insert(0, str(TOOLS))
    try:
        import street_scenes

        yield street_scenes
    finally:
        sys.path.remove(str(TOOLS))


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
def run(scenes):
    """The orchestration, as a module."""
    pytest.importorskip("mmengine")
    pytest.importorskip("matplotlib")
    from mmseg_tome import compat

    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    import run

    return run


def test_the_variants_are_one_network(run):
    from mmengine.config import Config

    backbones = {}
    for variant in run.VARIANTS:
        cfg = Config.fromfile(str(run.config(variant)), import_custom_modules=False)
        backbones[variant] = cfg.model.pop("backbone")
        backbones[variant]["rest"] = cfg.model
    presets = {variant: backbone.pop("tome_cfg") for variant, backbone in backbones.items()}
    assert presets == dict(none=None, hq="hq", fast="fast", n2d="n2d")
    assert all(backbone == backbones["none"] for backbone in backbones.values())


def test_a_failing_tool_is_reported_with_its_last_words(run, tmp_path):
    with pytest.raises(run.DemoError, match=r"(?s)tools/test.py ended with code 2.*does not exist"):
        run.run_tool("test.py", run.config("none"), tmp_path / "missing.pth")


def test_table_and_picture(run, dataset, tmp_path):
    """Random weights are enough to fill every field."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    init_default_scope("mmseg")
    cfg = Config.fromfile(str(run.config("none")))
    model = run.MODELS.build(cfg.model)
    checkpoint = tmp_path / "random.pth"
    torch.save(dict(state_dict=model.state_dict()), checkpoint)

    models = {variant: run.build(variant, checkpoint) for variant in run.VARIANTS}
    path = run.scene_file(dataset, run.richest_scene(dataset, 2))
    image = cv2.imread(str(path))
    x = run.preprocess(models["none"], image)
    assert x.shape == (1, 3, 96, 192)
    ms = run.time_forward(models, x, rounds=1)
    assert all(value > 0 for value in ms.values())
    kept = {v: run.tokens_kept(model.backbone, (256, 512)) for v, model in models.items()}
    assert set(kept["none"].values()) == {100.0}
    assert kept["n2d"] == dict(queries=25.0, keys_values=100.0, pairs=25.0)
    assert kept["fast"]["pairs"] < kept["hq"]["pairs"] < 100

    metrics = {"mIoU": 41.25, "mIoU.thin": 12.5, "aAcc": 80.0}
    results = dict(
        threads=1,
        sizes=dict(small=(96, 192), large=(1024, 2048)),
        variants={
            v: dict(metrics=metrics, tokens_kept=kept[v], ms=dict(small=ms[v], large=321.0))
            for v in run.VARIANTS
        },
    )
    lines = run.report.table(results).splitlines()
    rows = [line for line in lines if line.split("|")[0].strip() in run.VARIANTS]
    assert len(rows) == 4
    assert len({len(row) for row in rows}) == 1
    assert all("41.2" in row and "12.5" in row and "321.0" in row for row in rows)

    labels = cv2.imread(str(run.label_file(path)), cv2.IMREAD_GRAYSCALE)
    pictures = run.report.Pictures(
        image=image[..., ::-1],
        labels=labels,
        predictions=dict.fromkeys(run.VARIANTS, labels),
        slots={variant: run.slot_maps(model, x) for variant, model in models.items()},
    )
    run.report.draw(pictures, results, tmp_path / "demo.png")
    drawn = cv2.imread(str(tmp_path / "demo.png"))
    assert drawn.shape[0] > 1000
    assert drawn.std() > 30
