"""Every pose config says what its name says, states only its delta, and builds its model."""

import re
from pathlib import Path

import pytest

from mmseg_tome import compat

Config = pytest.importorskip("mmengine.config").Config

CONFIGS = Path(__file__).parents[2] / "configs"
NAME = re.compile(
    r"segformerpp_(?:(?P<size>b[0-4])_)?(?P<variant>none|hq|fast|n2d)_(?P<task>coco|jbd)"
    r"(?P<suffix>_detections)?"
)
FILES = sorted(p for p in CONFIGS.rglob("segformerpp_*.py") if NAME.fullmatch(p.stem))
VARIANTS = ("none", "hq", "fast", "n2d")
MODELS = dict(
    b0=(32, [2, 2, 2, 2], [32, 64, 160, 256]), b5=(64, [3, 6, 40, 3], [64, 128, 320, 512])
)
# Data set, keypoints, input (w, h).
TASKS = dict(
    coco=("CocoDataset", 17, (288, 384)), jbd=("mmseg_tome.JumpBroadcastDataset", 20, (480, 640))
)
every_config = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)


def load(path):
    return Config.fromfile(str(path), import_custom_modules=False)


def parts(path):
    match = NAME.fullmatch(path.stem).groupdict()
    return match | dict(size=match["size"] or "b5")


def test_the_promised_files_are_there():
    expected = {f"segformerpp_{v}_{t}.py" for v in VARIANTS for t in TASKS}
    expected |= {f"segformerpp_{v}_coco_detections.py" for v in VARIANTS}
    expected |= {f"b0/segformerpp_b0_{v}_{t}.py" for v in VARIANTS for t in TASKS}
    assert expected == {p.relative_to(CONFIGS).as_posix() for p in FILES}


@every_config
def test_config_says_what_its_name_says(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg, name = load(path), parts(path)
    backbone, head = cfg.model.backbone, cfg.model.head
    merged = name["variant"] != "none"
    assert backbone.get("tome_cfg") == (name["variant"] if merged else None)
    width, layers, channels = MODELS[name["size"]]
    assert (backbone.embed_dims, backbone.num_layers) == (width, layers)
    assert f"mit_{name['size']}_" in backbone.init_cfg.checkpoint
    assert head.in_channels == channels
    dataset, keypoints, size = TASKS[name["task"]]
    assert head.out_channels == keypoints
    assert head.decoder.input_size == size
    assert head.decoder.heatmap_size == (size[0] // 4, size[1] // 4)
    assert head.decoder.sigma == 3
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        assert loader.dataset.type == dataset
        assert loader.batch_size == 16
        affine = next(t for t in loader.dataset.pipeline if t.type == "TopdownAffine")
        assert affine.input_size == size


@every_config
def test_the_recipe_is_the_papers(path):
    cfg = load(path)
    optimizer, warm_up, steps = cfg.optim_wrapper.optimizer, *cfg.param_scheduler
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 5e-4, 0.01)
    assert (warm_up.end, warm_up.start_factor, warm_up.by_epoch) == (500, 0.001, False)
    assert (steps.milestones, steps.gamma) == ([170, 200], 0.1)
    assert steps.end == cfg.train_cfg.max_epochs == 210
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.test_cfg == dict(flip_test=True, flip_mode="heatmap", shift_heatmap=True)
    assert cfg.model.backbone.drop_path_rate == 0.1


@every_config
def test_the_evaluators_are_the_papers(path):
    cfg, name = load(path), parts(path)
    found = [(metric.type, metric.get("thr")) for metric in cfg.test_evaluator]
    pck = [("PCKAccuracy", 0.1), ("PCKAccuracy", 0.05)]
    if name["suffix"]:
        assert found == [("CocoMetric", None)]
        assert "detections" in cfg.test_dataloader.dataset.bbox_file
    else:
        assert found == ([("CocoMetric", None)] if name["task"] == "coco" else []) + pck
        assert "bbox_file" not in cfg.test_dataloader.dataset


@pytest.mark.parametrize(
    "path", [p for p in FILES if parts(p)["variant"] != "none"], ids=lambda p: p.stem
)
def test_variant_changes_the_backbone_alone(path):
    variant = load(path)
    none = load(path.with_name(path.name.replace(f"_{parts(path)['variant']}_", "_none_")))
    variant.model.backbone.pop("tome_cfg")
    assert variant.to_dict() == none.to_dict()
    statements = [line for line in path.read_text().splitlines() if line and line[0] not in " #)"]
    assert [line.split(" = ")[0] for line in statements] == ["_base_", "model"]


@every_config
def test_load_from_is_the_authors_unmerged_checkpoint(path):
    """That of a B5; of a B0 none is published."""
    name = parts(path)
    links = dict(coco="ZOgj2NmQLy", jbd="psolrWXLLp")
    link = f"https://mediastore.rz.uni-augsburg.de/get/{links[name['task']]}/"
    assert load(path).load_from == (link if name["size"] == "b5" else None)


@every_config
def test_mmposes_inferencers_know_the_kind_of_data(path):
    cfg, name = load(path), parts(path)
    assert (cfg.data_mode, cfg.dataset_type) == ("topdown", TASKS[name["task"]][0])


@pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")
@pytest.mark.parametrize(
    "path", [p for p in FILES if parts(p)["size"] == "b0"], ids=lambda p: p.stem
)
def test_model_builds_and_fits_its_data_set(path):
    from mmengine.registry import DefaultScope
    from mmpose.registry import DATASETS
    from mmpose.registry import MODELS as POSE_MODELS

    cfg = Config.fromfile(str(path))
    with DefaultScope.overwrite_default_scope("mmpose"):
        model = POSE_MODELS.build(cfg.model)
        dataset = DATASETS.build(cfg.test_dataloader.dataset | dict(lazy_init=True))
    assert dataset.metainfo["num_keypoints"] == model.head.out_channels
    assert type(model.backbone).__module__.startswith("mmseg_tome.")
