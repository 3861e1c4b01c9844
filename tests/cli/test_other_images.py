"""Models of grey, deep and four-channel images, in every tool that builds or runs one."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmseg_tome import compat

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("one_thread"),
]

SHAPE = (90, 120)
# Channels, how the config reads them, and their largest value.
KINDS = {
    "grey": (1, "grayscale", 255),
    "12 bit": (1, "unchanged", 4095),
    "four": (4, "unchanged", 255),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def images(kind, tmp_path):
    """Three images of a kind: blocks with noise."""
    channels, _, largest = kind
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in "abc":
        blocks = generator.integers(0, largest + 1, (6, 8, channels))
        image = np.kron(blocks, np.ones((15, 15, 1))) * generator.uniform(0.8, 1, (*SHAPE, 1))
        dtype = np.uint8 if largest == 255 else np.uint16
        cv2.imwrite(str(folder / f"{name}.png"), image.astype(dtype))
    return folder


@pytest.fixture(scope="module")
def model(kind, repo, make_tiny):
    """`--config` and `--checkpoint` of a tiny model of such images."""
    channels, color_type, largest = kind
    cfg = Config.fromfile(repo / "configs/camvid/segformerpp_b0_hq_camvid_480x360.py")
    scale = dict(mean=[largest / 2], std=[largest / 4])
    cfg.model.data_preprocessor.update(scale, bgr_to_rgb=False, size=SHAPE)
    cfg.test_dataloader.dataset.pipeline[0].update(color_type=color_type)
    cfg.test_dataloader.dataset.pipeline[1].update(scale=SHAPE[::-1])
    return make_tiny(cfg, in_channels=channels)


@pytest.fixture
def exported(tool, model):
    path = Path(model[1]).parent / "model.onnx"
    if not path.exists():
        assert tool("export", *model, "--out", path)[::2] == (0, [])
    return path


def labels_of(out):
    results = json.loads((out / "results.json").read_text())
    assert results["failed"] == []
    for entry in results["images"]:
        assert cv2.imread(str(out / entry["overlay"])).shape == (*SHAPE, 3)
    return [cv2.imread(str(out / e["labels"]), cv2.IMREAD_UNCHANGED) for e in results["images"]]


def test_infer_runs_the_model_and_its_exported_file_alike(tool, model, exported, images, tmp_path):
    runs = []
    for number, what in enumerate((model, ["--model", exported])):
        out = tmp_path / str(number)
        assert tool("infer", images, *what, "--out", out)[::2] == (0, [])
        runs.append(np.stack(labels_of(out)))
    assert len(np.unique(runs[0])) > 1
    assert (runs[0] == runs[1]).mean() > 0.995


def test_calibration_reads_images_as_the_config_does(kind, exported, images):
    from mmseg_tome.export.calibration import network_inputs

    channels, color_type, largest = kind
    pictures = sorted(images.iterdir())
    inputs = network_inputs(exported, pictures)
    for picture, found in zip(pictures, inputs, strict=True):
        flag = cv2.IMREAD_GRAYSCALE if color_type == "grayscale" else cv2.IMREAD_UNCHANGED
        image = cv2.imread(str(picture), flag).reshape(*SHAPE, channels)
        assert image.max() > largest * 0.7  # not cut to bytes
        expected = (image.astype(np.float32) - largest / 2) / (largest / 4)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


def test_int8_says_what_it_costs(tool, model, images, tmp_path):
    out = tmp_path / "model.onnx"
    code, said, errors = tool("export", *model, "--out", out, "--int8", "--calibration", images)
    assert (code, errors) == (0, [])
    assert "calibrated on 2 images, against float32 on 1 images" in said


def test_a_calibration_image_of_other_channels_is_named(tool, kind, model, images, tmp_path):
    if kind[1] == "grayscale":
        pytest.skip("reads everything as grey")
    cv2.imwrite(str(images / "aa.png"), np.zeros((*SHAPE, 3), np.uint8))
    out = tmp_path / "model.onnx"
    code, _, errors = tool("export", *model, "--out", out, "--int8", "--calibration", images)
    assert code == 2
    (error,) = errors
    assert "aa.png: the config reads it as uint8 [90, 120, 3], the model takes images" in error
    assert not out.exists()


def test_an_image_of_other_channels_is_one_failed_input(tool, kind, model, images, tmp_path):
    if kind[1] == "grayscale":
        pytest.skip("reads everything as grey")
    cv2.imwrite(str(images / "aa.png"), np.zeros((*SHAPE, 3), np.uint8))
    code, _, errors = tool("infer", images, *model, "--out", tmp_path / "out")
    assert code == 1
    assert [entry["error"] for entry in
            json.loads((tmp_path / "out/results.json").read_text())["failed"]] != []  # fmt: skip
    assert len(errors) == 1


def test_merging_can_be_drawn(tool, model, images, tmp_path):
    code, said, errors = tool(
        "visualize", images, *model, "--preset", "fast", "--out", tmp_path / "out"
    )
    assert (code, errors) == (0, [])
    assert "3 figures drawn" in said
