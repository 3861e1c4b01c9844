import json

import numpy as np
import pytest
import torch

from mmseg_tome import __version__
from mmseg_tome.errors import UserError
from mmseg_tome.export.metadata import LATER, Metadata, inference_config

SIZE = (64, 96)


def test_it_says_what_a_reader_needs(tiny, described):
    cfg, network = tiny()
    metadata = described(cfg, network, SIZE, config="mine.py")
    strings = metadata.to_strings()
    assert all(isinstance(value, str) for value in strings.values())
    assert json.loads(strings["names"]) == ["road", "sky", "tree", "car", "sign"]
    assert json.loads(strings["mean"]) == [120, 110, 100]
    assert json.loads(strings["std"]) == [60, 50, 40]
    assert json.loads(strings["channel_order"]) == "RGB"
    assert json.loads(strings["input_size"]) == [64, 96]
    assert json.loads(strings["preset"]) == "none"
    assert json.loads(strings["version"]) == __version__
    assert json.loads(strings["task"]) == "segmentation"
    assert Metadata.from_strings({**strings, "other": "x"}, "f") == metadata


def test_keypoints_keep_their_order(tiny, described):
    cfg, network = tiny("pose", [dict(q=dict(mode="n2d", stride=(2, 2)))] * 2)
    metadata = described(cfg, network, (96, 72))
    assert metadata.names == ["nose", "left", "right"]
    assert metadata.output == "heatmaps"
    assert metadata.preset[0] == {"q": {"mode": "n2d", "stride": [2, 2]}}


def test_a_file_of_others_is_named(tiny, described):
    strings = described(*tiny(), SIZE).to_strings()
    del strings["mean"]
    with pytest.raises(UserError, match=r"f.onnx was not written by tools/export.py.*'mean'"):
        Metadata.from_strings(strings, "f.onnx")


def test_an_image_fits_in_with_its_aspect_ratio(tiny, described):
    metadata = described(*tiny(), SIZE)
    image = np.zeros((32, 32, 3), np.uint8)
    image[...] = (10, 20, 30)  # BGR
    prepared = metadata.prepare(image)
    assert prepared.shape == (3, 64, 96)
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared[:, 5, 63], [(30 - 120) / 60, (20 - 110) / 50, -90 / 40])
    assert not prepared[:, :, 64:].any()


def test_sliding_windows_of_the_exported_size_stay(tiny):
    cfg, _ = tiny()
    cfg.model.test_cfg = dict(mode="slide", crop_size=SIZE, stride=(48, 48))
    assert inference_config(cfg, SIZE)["model"]["test_cfg"]["mode"] == "slide"
    whole = inference_config(cfg, (32, 32))
    assert whole["model"]["test_cfg"] == dict(mode="whole")
    resize = whole["test_dataloader"]["dataset"]["pipeline"][1]
    assert resize == dict(type="Resize", scale=[32, 32], keep_ratio=True)


def test_files_of_earlier_versions_are_of_three_channels(tiny, described):
    metadata = described(*tiny(), SIZE)
    strings = {k: v for k, v in metadata.to_strings().items() if k not in LATER}
    assert Metadata.from_strings(strings, "f") == metadata
    assert Metadata.from_strings(strings | dict.fromkeys(LATER, ""), "f") == metadata  # a .pt2's


@pytest.fixture
def of_channels(tiny, described):
    """The metadata of a model for images of some channels, normalised by as many values."""

    def build(channels: int, normalised: int):
        cfg, network = tiny()
        network.model.backbone.layers[0][0].projection = torch.nn.Conv2d(channels, 8, 7, 4, 3)
        cfg.model.data_preprocessor.update(mean=[100.0] * normalised, std=[50.0] * normalised)
        return described(cfg, network, SIZE)

    return build


@pytest.mark.parametrize(("channels", "normalised"), [(1, 1), (4, 1), (4, 4)])
def test_images_of_other_channels(of_channels, channels, normalised):
    metadata = of_channels(channels, normalised)
    assert (metadata.channels, metadata.channel_order) == (channels, "as read")
    image = np.full((32, 32, channels), 3000, np.uint16)
    prepared = metadata.prepare(image[..., 0] if channels == 1 else image)
    assert prepared.shape == (channels, 64, 96)
    assert (prepared[:, :, :64] == (3000 - 100) / 50).all()
    with pytest.raises(ValueError, match=f"an image of {channels} channels is expected"):
        metadata.prepare(np.zeros((32, 32, 3), np.uint8))


def test_a_mean_of_other_channels_is_named(of_channels):
    with pytest.raises(UserError, match="normalises 3 channels, its model takes images of 4"):
        of_channels(4, 3)
