"""Checkpoints of stock mmseg, and of the SegFormer++ authors' segmentation and pose models."""

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmseg_tome import compat
from mmseg_tome.checkpoints import Checkpoint, ConversionError, Source, convert
from mmseg_tome.checkpoints.config_file import make_config_text
from mmseg_tome.checkpoints.formats.huggingface import to_hugging_face

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

BACKBONE = dict(
    type="mmseg.MixVisionTransformer",
    embed_dims=8,
    num_layers=[1, 2, 1, 1],
    num_heads=[1, 2, 5, 8],
    norm_cfg=dict(type="LN", eps=1e-6),
)
HEAD = dict(
    type="mmseg.SegformerHead",
    in_channels=[8, 16, 40, 64],
    in_index=[0, 1, 2, 3],
    channels=16,
    num_classes=4,
    norm_cfg=dict(type="BN"),
    loss_decode=dict(type="mmseg.CrossEntropyLoss"),
)
MERGING = "tome_cfg=[dict(q_mode='n2d', kv_mode=None, q_s=(2, 2)), dict(), dict(), dict()]"


@pytest.fixture
def peer(randomise):
    from mmseg.registry import MODELS

    model = nn.Module()
    model.backbone, model.decode_head = MODELS.build(BACKBONE), MODELS.build(HEAD)
    return randomise(model)


@pytest.mark.parametrize("version", ["0.x", "1.x"])
def test_same_logits(peer, ours, logits, assert_same, image, version):
    names, palette = list("abcd"), [[1, 2, 3]] * 4
    old = dict(mmseg_version="0.18.0", CLASSES=names, PALETTE=palette)
    new = dict(mmengine_version="0.10.4", dataset_meta=dict(classes=names, palette=palette))
    checkpoint = convert(Source(peer.state_dict(), meta=old if version == "0.x" else new))
    assert checkpoint.origin.endswith(version)
    assert (checkpoint.classes, checkpoint.palette) == (tuple("abcd"), ((1, 2, 3),) * 4)
    with torch.no_grad():
        expected = peer.decode_head(peer.backbone(image))
    assert_same(logits(ours(checkpoint), image), expected)


def test_zoo_backbone(peer):
    checkpoint = convert(Source(peer.backbone.state_dict()))
    assert checkpoint.task == "backbone"
    assert checkpoint.architecture.num_layers == (1, 2, 1, 1)
    assert checkpoint.architecture.sr_ratios == (8, 4, 2, 1)


def test_config_text_is_read_not_run(peer, tmp_path):
    text = (
        f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n"
        f"model = dict(backbone=dict(norm_cfg=dict(type='LN', eps=1e-05), {MERGING}),\n"
        "    data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0]), x=os.getcwd())\n"
    )
    checkpoint = convert(Source(peer.state_dict(), meta=dict(cfg=text)))
    assert not (tmp_path / "ran").exists()
    assert "SegFormer++" in checkpoint.origin
    assert checkpoint.norm_eps == 1e-5
    assert checkpoint.mean == (1, 2, 3)
    assert checkpoint.tome_cfg == [dict(q_mode="n2d", kv_mode=None, q_s=[2, 2]), {}, {}, {}]


def test_merging_goes_into_the_config(peer, ours):
    text = f"model = dict(backbone=dict({MERGING}))"
    model = ours(convert(Source(peer.state_dict(), meta=dict(cfg=text))))
    assert model.backbone.tokens_kept((64, 64))[0]["q"] == (64, 256)
    assert model.backbone.tokens_kept((64, 64))[1]["q"] == (64, 64)


def test_no_equal_in_transformers(peer):
    checkpoint = convert(Source(peer.state_dict()))
    with pytest.raises(ConversionError, match="ReLU behind each level"):
        to_hugging_face(checkpoint)
    assert to_hugging_face(checkpoint.backbone())


class PoseHead(nn.Module):
    """The parameters of the authors' pose head."""

    def __init__(self, keypoints: int):
        super().__init__()
        norm = dict(type="BN")
        self.convs = nn.ModuleList(ConvModule(c, 16, 1, norm_cfg=norm) for c in HEAD["in_channels"])
        self.fusion_conv = ConvModule(64, 16, 1, norm_cfg=norm)
        self.final_layer = nn.Conv2d(16, keypoints, 1)

    def forward(self, levels):
        size = levels[0].shape[2:]
        resized = [
            nn.functional.interpolate(conv(level), size, mode="bilinear")
            for conv, level in zip(self.convs, levels, strict=True)
        ]
        return self.final_layer(self.fusion_conv(torch.cat(resized, 1)))


@pytest.fixture
def pose(peer, randomise) -> tuple[nn.Module, Checkpoint]:
    model = nn.Module()
    model.backbone, model.head = peer.backbone, randomise(PoseHead(17))
    meta = dict(dataset_meta=dict(dataset_name="coco", sigmas=np.ones(17, np.float32)))
    return model, convert(Source(model.state_dict(), meta=meta))


@pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")
def test_pose_gives_the_same_heatmaps(pose, repo, tmp_path, assert_same, image):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS

    from mmseg_tome.checkpoints.fitting import load_state

    peer, checkpoint = pose
    assert (checkpoint.task, checkpoint.head.outputs) == ("pose", 17)
    config = tmp_path / "config.py"
    config.write_text(make_config_text(checkpoint, tmp_path / "w.pth", config, repo / "configs"))
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    load_state(model, dict(state_dict=checkpoint.state), "converted")
    with torch.no_grad():
        expected = peer.head(peer.backbone(image))
        found = model.head(model.backbone(image))
    assert_same(found, expected)


def test_pose_has_no_equal_in_transformers(pose):
    with pytest.raises(ConversionError, match="no SegFormer for pose"):
        to_hugging_face(pose[1])


def test_ours_is_read_back(peer, tmp_path):
    from mmseg_tome.checkpoints.loading import load_from_local
    from mmseg_tome.checkpoints.reading import read_source
    from mmseg_tome.checkpoints.writing import write

    text = f"model = dict(backbone=dict(norm_cfg=dict(eps=1e-05), {MERGING}))"
    meta = dict(cfg=text, CLASSES=tuple("abcd"))
    checkpoint = convert(Source(peer.state_dict(), meta=meta))
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"w{suffix}"
        write(checkpoint, path)
        again = convert(read_source(str(path), load_from_local))
        assert again.origin == f"mmseg_tome (converted from {checkpoint.origin})"
        for attribute in ("architecture", "head", "norm_eps", "classes", "tome_cfg", "mean"):
            assert getattr(again, attribute) == getattr(checkpoint, attribute), attribute
        assert all(torch.equal(again.state[key], value) for key, value in checkpoint.state.items())
