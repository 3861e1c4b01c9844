"""`tools/export.py` and `tools/infer.py --model`, as a user runs them; models are made tiny."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmseg_tome import compat
from mmseg_tome.config import is_pose

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("one_thread"),
]
needs_mmpose = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")

SEGMENTATION = "configs/camvid/segformerpp_b0_hq_camvid_480x360.py"
POSE = "configs/b0/segformerpp_b0_fast_coco.py"


@pytest.fixture(scope="module")
def trained(repo, make_tiny):
    """`--config` and `--checkpoint` of a config that was made tiny, with random weights."""

    def build(config: str) -> list[str]:
        cfg = Config.fromfile(repo / config)
        if "test_cfg" in cfg.model and is_pose(cfg):
            cfg.model.test_cfg = dict(flip_test=True, flip_mode="heatmap", shift_heatmap=True)
        return make_tiny(cfg)

    return build


@pytest.fixture(scope="module")
def segmenter(trained) -> list[str]:
    return trained(SEGMENTATION)


@pytest.fixture(scope="module")
def images(street_scenes) -> Path:
    return street_scenes("a.jpg", "b.jpg", "c.jpg")


def results(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "model.pte"])
def test_infer_runs_the_exported_segmentor(tool, segmenter, images, tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".pte":
        pytest.importorskip("executorch", reason="needs executorch")
    kinds = {".onnx": "onnx", ".pt2": "torch-export", ".pte": "executorch"}
    kind = kinds[path.suffix]
    code, out, errors = tool(
        "export", *segmenter, "--size", "90x120", "--out", path, "--format", kind
    )
    assert (code, errors) == (0, [])
    assert "image-like: 100.0" in out or "image-like: 99." in out
    assert [file.name for file in tmp_path.iterdir()] == [name]

    shown, reference = tmp_path / "shown", tmp_path / "reference"
    assert tool("infer", images, "--model", path, "--out", shown)[0] == 0
    smaller = "test_dataloader.dataset.pipeline.1.scale=(120,90)"
    options = ["--cfg-options", smaller, "--out", reference]
    assert tool("infer", images, *segmenter, *options)[0] == 0
    found, expected = results(shown), results(reference)
    assert found["model"] == str(path)
    assert found["classes"] == expected["classes"]
    for entry, other in zip(found["images"], expected["images"], strict=True):
        labels = cv2.imread(str(shown / entry["labels"]), cv2.IMREAD_UNCHANGED)
        torchs = cv2.imread(str(reference / other["labels"]), cv2.IMREAD_UNCHANGED)
        assert len(np.unique(torchs)) > 1
        assert (labels == torchs).mean() > 0.995
    assert (shown / found["images"][0]["overlay"]).is_file()


@pytest.mark.slow
def test_a_file_for_any_size_runs_as_the_config_does(tool, segmenter, images, tmp_path):
    model, folder = tmp_path / "model.onnx", tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted(images.iterdir())):
        image = cv2.imread(str(path))  # 360x480
        cv2.imwrite(str(folder / path.name), image[: 300 + 20 * number, : 400 - 30 * number])
    keep = "test_dataloader.dataset.pipeline.1.scale_factor=1.0"
    no_scale = "test_dataloader.dataset.pipeline.1.scale=None"
    options = ["--cfg-options", keep, no_scale]
    assert tool("infer", folder, *segmenter, *options, "--out", tmp_path / "a")[0] == 0
    code, out, errors = tool("export", *segmenter, *options, "--dynamic-size", "--size",
        "288x320", "--out", model)  # fmt: skip
    assert (code, errors) == (0, [])
    assert "image-like, 256x256: " in out
    assert "any size from 256x256 pixels" in out
    assert tool("infer", folder, "--model", model, "--out", tmp_path / "b")[0] == 0
    for entry, other in zip(
        results(tmp_path / "a")["images"], results(tmp_path / "b")["images"], strict=True
    ):
        labels = cv2.imread(str(tmp_path / "a" / entry["labels"]), cv2.IMREAD_UNCHANGED)
        found = cv2.imread(str(tmp_path / "b" / other["labels"]), cv2.IMREAD_UNCHANGED)
        assert labels.shape == found.shape == (entry["height"], entry["width"])
        assert (labels == found).mean() > 0.99


@needs_mmpose
def test_infer_runs_the_exported_pose_model(tool, trained, shared, tmp_path):
    estimator, path = trained(POSE), tmp_path / "model.onnx"
    assert tool("export", *estimator, "--out", path)[0] == 0  # the codec knows the size
    code, _, errors = tool("export", *estimator, "--out", tmp_path / "any.onnx", "--dynamic-size")
    assert code == 2
    assert errors == ["error: --dynamic-size is for segmentation: a pose codec has one size"]
    persons = shared / "data" / "coco_sample"
    inputs = [*sorted(persons.glob("*.jpg"))[:2], "--boxes", persons / "test_coco.json"]
    assert tool("infer", *inputs, "--model", path, "--out", tmp_path / "a")[0] == 0
    assert tool("infer", *inputs, *estimator, "--out", tmp_path / "b")[0] == 0
    found, expected = results(tmp_path / "a"), results(tmp_path / "b")
    assert found["keypoint_names"] == expected["keypoint_names"]
    for entry, other in zip(found["images"], expected["images"], strict=True):
        assert other["instances"]
        for person, torchs in zip(entry["instances"], other["instances"], strict=True):
            distance = np.abs(np.subtract(person["keypoints"], torchs["keypoints"])).max(axis=1)
            assert (distance < 0.5).mean() > 0.9  # a flat heatmap may have two peaks


def test_int8_says_what_it_costs(tool, segmenter, images, tmp_path):
    path = tmp_path / "model.onnx"
    options = ["--size", "90x120", "--out", path, "--int8", "--calibration", images]
    code, out, errors = tool("export", *segmenter, *options)
    assert (code, errors) == (0, [])
    line = next(line for line in out.splitlines() if line.startswith("int8"))
    assert "calibrated on 2 images, against float32 on 1 images" in line
    assert "agreement" in line
    import onnx

    properties = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert (properties["precision"], properties["preset"]) == ('"int8"', '"hq"')
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.fixture
def refusal(tool, segmenter, tmp_path):
    """Run tools/export.py and return the one line with which it refuses; nothing is written."""

    def run(*args, model=segmenter) -> str:
        out = tmp_path / "out" / "model.onnx"
        out.parent.mkdir(exist_ok=True)
        out.write_text("good")
        where = () if "--out" in args else ("--out", out)
        code, _, errors = tool("export", *model, *args, *where)
        assert code == 2
        assert len(errors) == 1
        assert [file.name for file in out.parent.iterdir()] == ["model.onnx"]
        assert out.read_text() == "good"
        return errors[0]

    return run


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--opset", "9"], "--opset 9 is not supported: 18 to 23 are"),
        (["--size", "64"], "--size 64 is not HxW, such as 1024x2048"),
        (["--size", "0x64"], "--size 0x64 is not HxW"),
        (["--size", "16x16"], "an image of 16x16 pixels is too small"),
        (["--out", "model.pt2"], "ends in .onnx"),
        (["--format", "torch-export"], "ends in .pt2"),
        (["--format", "executorch"], "ends in .pte"),
        (["--format", "executorch", "--half", "--out", "m.pte"], "executorch takes float32"),
        (["--format", "executorch", "--int8", "--out", "m.pte"], "needs --calibration DIR"),
        (["--int8", "--dynamic-size"], "--int8 is for images of one size"),
        (["--int8", "--half"], "--int8 is for --format onnx without --half"),
        (["--calibration", "."], "--calibration is for --int8"),
        (["--int8", "--calibration", "missing"], "--calibration missing is no folder"),
        (["--scores-mib", "-1"], "--scores-mib must not be negative"),
        (["--cfg-options", "model.decode_head.num_classes=7"], "11 classes, the model has 7"),
    ],
)
def test_mistakes_end_in_one_line(refusal, args, message):
    assert message in refusal(*args)


def test_an_empty_calibration_folder_is_named(refusal, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    assert "holds no image" in refusal("--int8", "--calibration", tmp_path / "empty")


def test_checkpoints_that_cannot_be_read_are_named(refusal, segmenter, tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    for name, message in (("bad.pth", "not a checkpoint"), ("none.pth", "does not exist")):
        model = [*segmenter[:2], "--checkpoint", tmp_path / name]
        assert message in refusal(model=model)


def test_a_file_that_differs_is_not_put_in_place(refusal, monkeypatch):
    from mmseg_tome.export import onnx_file
    from mmseg_tome.export.runtime import OnnxNetwork

    monkeypatch.setattr(onnx_file, "write", lambda program, path, *_: path.write_bytes(b"other"))
    monkeypatch.setattr(OnnxNetwork, "__init__", lambda self, path: None)
    monkeypatch.setattr(OnnxNetwork, "__call__", lambda self, x: np.zeros((1, 11, 16, 16), "f"))
    assert "was not written: on noise it differs" in refusal("--size", "64x64")


def test_missing_packages_are_named_before_anything_is_loaded(refusal, monkeypatch):
    from mmseg_tome.export import requirements

    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == "onnx" else 1)
    assert "writing ONNX needs onnx: pip install onnx" in refusal(model=["--config", "none.py"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "none.onnx"], "exported model none.onnx does not exist"),
        (["--model", "m.onnx", "--checkpoint", "a.pth"], "--checkpoint goes with --config"),
        (["--model", "m.onnx", "--device", "cuda"], "--device cuda: a --model runs on the CPU"),
    ],
)
def test_infer_refuses_what_does_not_go_with_a_model(tool, images, tmp_path, args, message):
    code, _, errors = tool("infer", images, *args, "--out", tmp_path / "out")
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_file_that_names_code_to_run_is_refused(tool, segmenter, images, tmp_path):
    """mmengine would call whatever a `type` names; a stranger's file may name anything."""
    import onnx

    path, mark = tmp_path / "model.onnx", tmp_path / "mark"
    assert tool("export", *segmenter, "--size", "64x64", "--out", path)[0] == 0
    model = onnx.load(path)
    properties = {prop.key: prop.value for prop in model.metadata_props}
    inference = json.loads(properties["inference"])
    step = dict(type="subprocess.Popen", args=["touch", str(mark)])
    inference["test_dataloader"]["dataset"]["pipeline"].insert(1, step)
    onnx.helper.set_model_props(model, properties | dict(inference=json.dumps(inference)))
    onnx.save(model, path)
    code, _, errors = tool("infer", images, "--model", path, "--out", tmp_path / "out")
    assert code == 2
    (error,) = errors
    assert "names 'subprocess.Popen', which is nothing that the mm packages have" in error
    assert not mark.exists()
