import json

import numpy as np
import pytest

from mmseg_tome import __version__
from mmseg_tome.engine.errors import UserError
from mmseg_tome.export.metadata import Metadata, inference_config

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
