"""Every config parses from anywhere, says what its name says, and builds the model it names."""

import re
from pathlib import Path

import pytest

Config = pytest.importorskip("mmengine.config").Config

CONFIGS = Path(__file__).parents[2] / "configs"
NAME = re.compile(
    r"segformerpp_(?:(?P<size>b[0-4])_)?(?P<variant>none|hq|fast|n2d|downsample)_"
    r"(?P<task>cityscapes|ade20k|camvid)(?P<suffix>_whole|_480x360)?"
)
FILES = sorted(p for p in CONFIGS.rglob("segformerpp_*.py") if NAME.fullmatch(p.stem))
VARIANTS = ("none", "hq", "fast", "n2d", "downsample")
LAYERS = dict(
    b0=[2, 2, 2, 2],
    b1=[2, 2, 2, 2],
    b2=[3, 4, 6, 3],
    b3=[3, 4, 18, 3],
    b4=[3, 8, 27, 3],
    b5=[3, 6, 40, 3],
)
WIDTHS = {32: [32, 64, 160, 256], 64: [64, 128, 320, 512]}
CLASSES = dict(cityscapes=19, ade20k=150, camvid=11)
DATASETS = dict(
    cityscapes="CityscapesDataset", ade20k="ADE20KDataset", camvid="mmseg_tome.CamVidDataset"
)

every_config = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)


def load(path):
    # Parsing alone: the custom imports are exercised by the tests that build.
    return Config.fromfile(str(path), import_custom_modules=False)


def parts(path):
    match = NAME.fullmatch(path.stem).groupdict()
    return match | dict(size=match["size"] or "b5", suffix=match["suffix"] or "")


def test_the_promised_files_are_there():
    expected = {
        f"segformerpp_{v}_{t}.py"
        for v in VARIANTS
        for t in ("cityscapes", "cityscapes_whole", "ade20k")
    }
    for size in ("b0", "b1", "b2", "b3", "b4"):
        for task in ("cityscapes", "ade20k"):
            expected |= {f"{size}/segformerpp_{size}_{v}_{task}.py" for v in VARIANTS}
    for size in ("b0", "b1", "b2"):
        for size_of_images in ("", "_480x360"):
            expected |= {
                f"camvid/segformerpp_{size}_{v}_camvid{size_of_images}.py" for v in VARIANTS[:4]
            }
    assert expected <= {p.relative_to(CONFIGS).as_posix() for p in FILES}


def test_default_work_dirs_do_not_collide():
    # The tools name a work_dir after the file alone.
    assert len({p.stem for p in CONFIGS.rglob("segformer*.py")}) == len(
        list(CONFIGS.rglob("segformer*.py"))
    )


@every_config
def test_config_says_what_its_name_says(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg, name = load(path), parts(path)
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    merged = name["variant"] in ("hq", "fast", "n2d")
    assert backbone.get("tome_cfg") == (name["variant"] if merged else None)
    assert backbone.get("down_sample", False) is (name["variant"] == "downsample")

    width = 32 if name["size"] == "b0" else 64
    assert backbone.embed_dims == width
    assert backbone.num_layers == LAYERS[name["size"]]
    assert head.in_channels == WIDTHS[width]
    assert head.num_classes == CLASSES[name["task"]]
    assert backbone.type == "mmseg_tome.MixVisionTransformer"
    assert head.type == "mmseg_tome.SegformerHead"

    slides = name["task"] == "cityscapes" and name["suffix"] != "_whole"
    if slides:
        assert cfg.model.test_cfg == dict(mode="slide", crop_size=(1024, 1024), stride=(768, 768))
    else:
        assert cfg.model.test_cfg == dict(mode="whole")


@every_config
def test_data_and_model_agree(path):
    cfg, name = load(path), parts(path)
    for split in ("train", "val", "test"):
        assert cfg[f"{split}_dataloader"].dataset.type == DATASETS[name["task"]]
    assert cfg.test_dataloader.dataset.pipeline == cfg.test_pipeline
    crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == "RandomCrop")
    assert tuple(crop.crop_size) == tuple(cfg.model.data_preprocessor.size)
    batch = dict(cityscapes=4, ade20k=8, camvid=8)[name["task"]]
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == batch

    test_scale = next(t for t in cfg.test_pipeline if t.type == "Resize").scale
    scales, flips, *_ = cfg.tta_pipeline[1].transforms
    assert test_scale in [t.scale for t in scales]
    assert len(scales) == 6
    assert [t.prob for t in flips] == [0.0, 1.0]


@pytest.mark.parametrize(
    "path", [p for p in FILES if parts(p)["variant"] != "none"], ids=lambda p: p.stem
)
def test_variant_changes_the_backbone_alone(path):
    """Same data, schedule and checkpoint as `none`: the numbers can be compared."""
    variant = load(path)
    none = load(path.with_name(path.name.replace(f"_{parts(path)['variant']}_", "_none_")))
    for key in ("tome_cfg", "down_sample"):
        variant.model.backbone.pop(key, None)
    assert variant.to_dict() == none.to_dict()
    statements = [line for line in path.read_text().splitlines() if line and line[0] not in " #)"]
    assert [line.split(" = ")[0] for line in statements] == ["_base_", "model"]


def zoo():
    """Checkpoint path (without the host) -> (config name), from the installed mmseg."""
    mmseg = pytest.importorskip("mmseg")
    file = Path(mmseg.__file__).parent / ".mim/configs/segformer/metafile.yaml"
    if not file.is_file():
        pytest.skip("this mmseg was installed without its model zoo's metafile")
    text = file.read_text()
    names = re.findall(r"^- Name: (segformer_\S+)", text, re.MULTILINE)
    urls = re.findall(r"Weights: https://[^/]+/(\S+)", text)
    assert len(names) == len(urls) == 13
    return dict(zip(urls, names, strict=True))


@pytest.mark.parametrize(
    "path", [p for p in FILES if parts(p)["task"] != "camvid"], ids=lambda p: p.stem
)
def test_load_from_is_the_zoos_checkpoint_of_that_model(path):
    """Both stacks' zoos hold the same files, on hosts of their own."""
    cfg, name = load(path), parts(path)
    host, file = re.fullmatch(r"https://([^/]+)/(\S+)", cfg.load_from).groups()
    assert host == "mmassets.onedl.ai"
    size = dict(cityscapes=1024, ade20k=640 if name["size"] == "b5" else 512)[name["task"]]
    published = zoo()[file]
    assert published.startswith(f"segformer_mit-{name['size']}_")
    assert published.endswith(f"{name['task']}-{size}x{size}")
    assert cfg.model.data_preprocessor.size == (size, size)


@pytest.mark.parametrize("size", LAYERS)
def test_models_and_recipe_are_the_zoos(size):
    """Whatever the zoo's own config says about model and schedule, ours says too."""
    mmseg = pytest.importorskip("mmseg")
    root = Path(mmseg.__file__).parent / ".mim/configs/segformer"
    stock_file = root / f"segformer_mit-{size}_8xb1-160k_cityscapes-1024x1024.py"
    if not stock_file.is_file():
        pytest.skip("this mmseg was installed without its configs")
    stock = load(stock_file)
    folder = CONFIGS if size == "b5" else CONFIGS / size
    infix = "" if size == "b5" else f"_{size}"
    ours = load(folder / f"segformerpp{infix}_none_cityscapes.py")

    stock_init = stock.model.backbone.pop("init_cfg").checkpoint
    our_init = ours.model.backbone.pop("init_cfg").checkpoint
    assert our_init.split("/", 3)[3] == stock_init.split("/", 3)[3]
    for model in (stock.model, ours.model):
        model.pop("pretrained", None)
        for part in ("backbone", "decode_head", "data_preprocessor"):
            model[part].type = model[part].type.split(".")[-1]
        model.type = model.type.split(".")[-1]
    assert ours.model.to_dict() == stock.model.to_dict()
    ours.default_hooks = {k: v for k, v in ours.default_hooks.items() if k in stock.default_hooks}
    del ours.optim_wrapper["constructor"]  # gives every parameter the same settings
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "default_hooks", "env_cfg"):
        assert ours[key] == stock[key], key
    for key in ("train_pipeline", "test_pipeline"):
        assert ours[key] == stock[key], key


def test_camvid_starts_from_random_weights():
    for path in CONFIGS.glob("camvid/*.py"):
        cfg = load(path)
        assert cfg.model.backbone.init_cfg is None
        assert cfg.load_from is None
        iterations = 6000 if path.stem.endswith("_480x360") else 20000
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters == iterations


# One config per size and variant; B0's stand for the larger models, which take seconds to build.
BUILT = [p for p in FILES if parts(p)["size"] == "b0"] + [
    CONFIGS / "segformerpp_none_cityscapes.py"
]


@pytest.mark.parametrize("path", BUILT, ids=lambda p: p.stem)
def test_model_builds(path):
    registry = pytest.importorskip("mmengine.registry")
    pytest.importorskip("mmseg")
    cfg = Config.fromfile(str(path))  # with the custom imports
    registry.init_default_scope(cfg.default_scope)
    model = registry.MODELS.build(cfg.model)
    assert type(model.backbone).__module__.startswith("mmseg_tome.")
    assert model.decode_head.conv_seg.out_channels == CLASSES[parts(path)["task"]]
    for name in ("checkpoint_guard", "fast_inference", "auto_merging", "merging_visualization"):
        registry.build_from_cfg(cfg.default_hooks[name], registry.HOOKS)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert type(registry.METRICS.build(evaluator)).__module__.startswith("mmseg_tome.")
