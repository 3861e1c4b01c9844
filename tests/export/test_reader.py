"""A stand-in for an exported file in the place of a network; real ones: tests/cli."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmseg_tome import compat
from mmseg_tome.checkpoints.loading import load
from mmseg_tome.errors import UserError
from mmseg_tome.export import reader as exported
from mmseg_tome.export.metadata import Metadata
from mmseg_tome.nets.errors import ImageSizeError

CODEC = dict(type="MSRAHeatmap", input_size=[32, 64], heatmap_size=[8, 16], sigma=2)
PARTS = {
    "segmentation": dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor"),
        decode_head=dict(num_classes=3, align_corners=False),
        test_cfg=dict(mode="whole"),
    ),
    "pose": dict(
        type="TopdownPoseEstimator",
        data_preprocessor=dict(type="PoseDataPreprocessor"),
        head=dict(out_channels=3, decoder=CODEC),
    ),
}


class Doubling:
    """Stands for a file: gives twice every fourth pixel."""

    def __init__(self, metadata: Metadata):
        self.metadata = metadata

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return 2 * images[:, :, ::4, ::4]


@pytest.fixture(params=["segmentation", "pose"])
def task(request, monkeypatch) -> str:
    """A task, a file of which `read_exported` finds under any name."""
    if not compat.has("mmseg" if request.param == "segmentation" else "mmpose"):
        pytest.skip("needs its mm package")
    metadata = Metadata(
        task=request.param,
        input_size=[64, 32],
        mean=[0.0] * 3,
        std=[1.0] * 3,
        channel_order="RGB",
        output="",
        names=["a", "b", "c"],
        preset="none",
        dataset_meta=dict(keypoint_id2name={"0": "a"}, sigmas=[0.5], classes=["a", "b", "c"]),
        inference=dict(default_scope="mmengine", model=PARTS[request.param]),
    )
    monkeypatch.setattr(exported, "_open", lambda path: Doubling(metadata))
    return request.param


def test_the_network_becomes_the_file(task):
    cfg, _ = exported.read_exported("f.onnx")
    init_default_scope("mmseg" if task == "segmentation" else "mmpose")
    model = MODELS.build(cfg.model).eval()
    images = torch.randn(2, 3, 64, 32)
    assert torch.equal(model(images, None, mode="tensor"), 2 * images[:, :, ::4, ::4])
    assert not model.state_dict()


def test_images_of_another_size_are_refused(task):
    with pytest.raises(ImageSizeError, match=r"32x32 pixels do not fit .* takes 64x32"):
        exported.ExportedBackbone("f.onnx")(torch.zeros(1, 3, 32, 32))


def test_its_address_is_a_checkpoint_with_names_but_without_weights(task):
    _, address = exported.read_exported("f.onnx")
    checkpoint = load(address)
    assert checkpoint["state_dict"] == {}
    meta = checkpoint["meta"]["dataset_meta"]
    assert meta["keypoint_id2name"] == {0: "a"}
    assert isinstance(meta["sigmas"], np.ndarray)
    assert meta["classes"] == ["a", "b", "c"]


def test_sizes_are_tuples_again(task):
    cfg, _ = exported.read_exported("f.onnx")
    if task == "pose":
        assert cfg.model.head.decoder.input_size == (32, 64)
    assert exported._with_tuples([dict(scale=[2, 3]), [1]]) == [dict(scale=(2, 3)), (1,)]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"exported model .*none\.onnx does not exist"):
        exported.read_exported(str(tmp_path / "none.onnx"))
