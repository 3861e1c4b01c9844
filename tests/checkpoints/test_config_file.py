"""The configs that are made: each has a base, and describes the checkpoint's model."""

from dataclasses import replace
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_tome.checkpoints import Checkpoint, ConversionError
from mmseg_tome.checkpoints.architecture import VARIANTS, Architecture, Head
from mmseg_tome.checkpoints.config_file import (
    POSE,
    SEGMENTATION,
    make_config_text,
    recognise_classes,
)

CITYSCAPES = ("Road ", "sidewalk", "building", "wall", *"abcdefghijklmno")


@pytest.fixture
def make(repo, tmp_path):
    def build(checkpoint: Checkpoint, dataset: str | None = None) -> Config:
        path, weights = tmp_path / "sub" / "config.py", tmp_path / "weights.pth"
        path.parent.mkdir(exist_ok=True)
        path.write_text(make_config_text(checkpoint, weights, path, repo / "configs", dataset))
        cfg = Config.fromfile(path)
        assert Path(cfg.load_from).resolve() == weights.resolve()
        assert max(map(len, path.read_text().splitlines())) <= 100
        return cfg

    return build


def checkpoint(variant="b0", task="segmentation", outputs=19, linear=True, **known) -> Checkpoint:
    architecture = Architecture(3, *VARIANTS[variant])
    head = Head(task, linear, 768 if variant == "b5" else 256, outputs)
    return Checkpoint({}, "a test", architecture, head, norm_eps=1e-6, **known)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("known", [*SEGMENTATION, *POSE, None], ids=lambda k: k and k.name)
def test_every_variant_has_a_base(make, variant, known):
    task = "pose" if known in POSE else "segmentation"
    cfg = make(checkpoint(variant, task, known.count if known else 4), known and known.name)
    backbone = cfg.model.backbone
    embed_dims, num_layers = VARIANTS[variant]
    assert (backbone.embed_dims, tuple(backbone.num_layers)) == (embed_dims, num_layers)
    assert backbone.get("tome_cfg") is None
    assert backbone.init_cfg is None
    head = cfg.model.head if task == "pose" else cfg.model.decode_head
    assert tuple(head.in_channels) == tuple(embed_dims * n for n in (1, 2, 5, 8))
    assert head.channels == (768 if variant == "b5" else 256)
    if task == "segmentation":
        assert head.num_classes == (known.count if known else 4)
        assert head.type == "mmseg_tome.SegformerLinearHead"
    assert cfg.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert cfg.test_dataloader.dataset.pipeline


def test_the_size_of_images(make, tmp_path):
    resize = make(checkpoint(outputs=4, input_size=(512, 640))).test_pipeline[1]
    assert (resize.type, resize.scale, resize.keep_ratio) == ("Resize", (640, 512), False)
    cfg = make(checkpoint(outputs=150, input_size=(512, 640)), "ade20k")
    assert cfg.test_pipeline[1].keep_ratio  # the data set's own test
    said = (tmp_path / "sub" / "config.py").read_text()
    assert "# Elsewhere it is given images resized to 640x512, here those of ade20k's\n" in said


def test_data_set_is_recognised(make):
    cfg = make(checkpoint(classes=CITYSCAPES, linear=False))
    assert cfg.test_dataloader.dataset.type == "CityscapesDataset"
    assert cfg.model.decode_head.type == "mmseg_tome.SegformerHead"
    assert recognise_classes(CITYSCAPES[:5]) is None
    assert recognise_classes(None) is None


def test_own_classes_and_settings(make):
    names, palette = ("it's", 'a "b"', "c\\d", "ü"), ((0, 1, 2),) * 4
    cfg = make(
        checkpoint(
            outputs=4,
            classes=names,
            palette=palette,
            tome_cfg=[dict(q_mode="n2d", q_s=[2, 2]), {}, {}, {}],
            down_sample=True,
            mean=(1.0, 2.0, 3.0),
        )
    )
    metainfo = cfg.test_dataloader.dataset.metainfo
    assert metainfo.classes == list(names)
    assert metainfo.palette == [[0, 1, 2]] * 4
    assert cfg.model.backbone.tome_cfg[0].q_s == [2, 2]
    assert cfg.model.backbone.down_sample
    assert cfg.model.data_preprocessor.mean == [1, 2, 3]


def test_refused(make):
    with pytest.raises(ConversionError, match="ade20k has 150 classes, the checkpoint has 19"):
        make(checkpoint(), "ade20k")
    with pytest.raises(ConversionError, match=r"COCO \(17\) and Jump-Broadcast \(20\) only"):
        make(checkpoint(task="pose", outputs=18))
    with pytest.raises(ConversionError, match="a backbone alone needs no config"):
        make(replace(checkpoint(), head=None))
