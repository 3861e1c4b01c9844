"""The configs of Twins, PVT and ViT: as the zoos', but for merging and our data sets."""

import re
from pathlib import Path

import pytest

from mmseg_tome import compat

Config = pytest.importorskip("mmengine.config").Config

CONFIGS = Path(__file__).parents[2] / "configs"
VARIANTS = ("none", "hq", "fast", "n2d")
# Name of our files: backbone, task, and the zoo's config whose model it is, in its `.mim/configs`.
MODELS = dict(
    twins_pcpvt_s=("PCPVT", "ade20k", "twins/twins_pcpvt-s_uperhead_8xb4-160k_ade20k-512x512"),
    twins_svt_s=("SVT", "ade20k", "twins/twins_svt-s_uperhead_8xb2-160k_ade20k-512x512"),
    deit_s16=(
        "VisionTransformer", "ade20k", "vit/vit_deit-s16_mln_upernet_8xb2-160k_ade20k-512x512"
    ),
    pvt_s=("PyramidVisionTransformer", "coco", "td-hm_pvt-s_8xb64-210e_coco-256x192"),
    pvtv2_b2=("PyramidVisionTransformerV2", "coco", "td-hm_pvtv2-b2_8xb64-210e_coco-256x192"),
)  # fmt: skip
FOLDERS = dict(twins="twins", deit="vit", pvt="pvt", pvtv2="pvt")
POSE = "body_2d_keypoint/topdown_heatmap/coco"

each_model = pytest.mark.parametrize("name", MODELS)


def file(name, variant):
    folder = FOLDERS[name.partition("_")[0]]
    return CONFIGS / folder / f"{name}_{variant}_{MODELS[name][1]}.py"


def load(path):
    # Parsing alone: the custom imports are exercised by the tests that build.
    return Config.fromfile(str(path), import_custom_modules=False)


def load_zoo(name):
    package = "mmpose" if MODELS[name][1] == "coco" else "mmseg"
    if not compat.has(package):
        pytest.skip(f"the zoo's config comes with {package}")
    module = __import__(package)
    root = Path(module.__file__).parent / ".mim/configs"
    path = root / (POSE if package == "mmpose" else "") / f"{MODELS[name][2]}.py"
    if not path.is_file():
        pytest.skip(f"this {package} was installed without its configs")
    return load(path)


def zoo_checkpoint(name):
    """Path of the zoo's checkpoint, without the host: the stacks' zoos have hosts of their own."""
    mmseg = pytest.importorskip("mmseg")
    folder, config = MODELS[name][2].split("/")
    metafile = Path(mmseg.__file__).parent / ".mim/configs" / folder / "metafile.yaml"
    if not metafile.is_file():
        pytest.skip("this mmseg was installed without its model zoo's metafile")
    entry = metafile.read_text().partition(f"- Name: {config}\n")[2].partition("- Name: ")[0]
    return re.search(r"Weights: https://[^/]+/(\S+)", entry)[1]


def test_the_promised_files_are_there():
    found = {path for folder in FOLDERS.values() for path in (CONFIGS / folder).glob("*.py")}
    assert found == {file(name, variant) for name in MODELS for variant in VARIANTS}


def test_default_work_dirs_do_not_collide():
    # The tools name a work_dir after the file alone.
    stems = [path.stem for path in CONFIGS.rglob("*.py") if "_base_" not in path.parts]
    assert len(stems) == len(set(stems))


@each_model
@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_variant_changes_the_backbone_alone(name, variant):
    ours, none = load(file(name, variant)), load(file(name, "none"))
    assert ours.model.backbone.pop("tome_cfg") == variant
    assert ours.to_dict() == none.to_dict()
    lines = file(name, variant).read_text().splitlines()
    statements = [line for line in lines if line and line[0] not in " #)"]
    assert [line.split(" = ")[0] for line in statements] == ["_base_", "model"]


@each_model
def test_the_model_is_the_zoos(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours, theirs = load(file(name, "none")).model, load_zoo(name).model
    assert ours.backbone.type == f"mmseg_tome.{MODELS[name][0]}"
    for part in (ours, ours.backbone, ours.data_preprocessor):
        part.type = part.type.split(".")[-1]
    theirs.pop("pretrained", None)  # DeiT's is a file of one's own, see the base config
    weights = [model.backbone.pop("init_cfg", None) for model in (ours, theirs)]
    assert (weights[0] is None) == (weights[1] is None)
    if weights[0] is not None:  # the zoos of both stacks have hosts of their own
        assert weights[0].checkpoint.split("/", 3)[3] == weights[1].checkpoint.split("/", 3)[3]
    if "head" in ours:  # at the resolution of our data set
        assert ours.head.decoder.heatmap_size == (72, 96)
        del ours.head.decoder, theirs.head.decoder
    assert ours.to_dict() == theirs.to_dict()


@each_model
def test_the_recipe_is_the_zoos(name):
    ours = load(file(name, "none"))
    if MODELS[name][1] == "coco":
        assert ours.train_cfg.max_epochs == load_zoo(name).train_cfg.max_epochs
        assert ours.param_scheduler[1].milestones == load_zoo(name).param_scheduler[1].milestones
        return
    theirs = load_zoo(name)
    assert ours.optim_wrapper.optimizer == theirs.optim_wrapper.optimizer
    assert ours.param_scheduler == theirs.param_scheduler
    assert ours.train_cfg.max_iters == theirs.train_cfg.max_iters
    keys, wanted = (dict(cfg.optim_wrapper.paramwise_cfg.custom_keys) for cfg in (ours, theirs))
    keys.pop("pos_block")  # SegFormer's schedule has it for all: no parameter is called so
    assert keys.pop("head") == dict(lr_mult=1.0)  # and this as 10
    wanted.pop("pos_block", None)
    assert keys == wanted


@pytest.mark.parametrize("name", [n for n, (_, task, _) in MODELS.items() if task == "ade20k"])
def test_load_from_is_the_zoos_checkpoint_of_that_model(name):
    assert load(file(name, "none")).load_from.split("/", 3)[3] == zoo_checkpoint(name)


@each_model
def test_data_and_model_agree(name):
    cfg = load(file(name, "none"))
    if MODELS[name][1] == "coco":
        affine = next(t for t in cfg.test_pipeline if t.type == "TopdownAffine")
        assert affine.input_size == cfg.model.head.decoder.input_size
        assert cfg.model.head.out_channels == 17
    else:
        crop = next(t for t in cfg.train_pipeline if t.type == "RandomCrop")
        assert tuple(crop.crop_size) == tuple(cfg.model.data_preprocessor.size) == (512, 512)
        assert cfg.model.decode_head.num_classes == 150


@each_model
def test_model_builds(name):
    from mmengine.registry import DefaultScope

    if MODELS[name][1] == "coco":
        if not compat.has("mmpose"):
            pytest.skip("needs mmpose")
        from mmpose.registry import MODELS as REGISTRY
    else:
        from mmseg.registry import MODELS as REGISTRY

    cfg = Config.fromfile(str(file(name, "fast")))  # with the custom imports
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = REGISTRY.build(cfg.model)
    assert type(model.backbone).__module__.startswith("mmseg_tome.")
    kept, total = model.backbone.tokens_kept((512, 512))[-1]["q"]
    assert kept < 0.2 * total
