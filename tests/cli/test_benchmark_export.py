"""`mmseg-tome benchmark-export`: stock and ours in every runtime that is here."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmseg_tome import compat
from mmseg_tome.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("one_thread"),
]

SEGMENTATION = "configs/camvid/segformerpp_b0_hq_camvid_480x360.py"
RUNTIMES = {"torch": "torch", "onnx": "ONNX Runtime"}
RUNTIMES |= {name: title for name, title in [("openvino", "OpenVINO")] if find_spec(name)}


@pytest.fixture(scope="module")
def segmenter(repo, make_tiny) -> list[str]:
    """`--config FILE --checkpoint FILE`"""
    return make_tiny(Config.fromfile(repo / SEGMENTATION))


def rows(lines: list[str], begin: str) -> dict[str, list[str]]:
    """Cells of the table whose head begins so, by the first."""
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {begin}"))
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[start:]]
    return {first: others for first, *others in cells[: cells.index([""])]}


def test_stock_and_ours_in_one_run(tool, segmenter):
    options = ["--size", "64x96", "--presets", "none", "n2d", "--rounds", "2", "--threads", "1"]
    code, out, errors = tool("benchmark_export", *segmenter, *options, "--runtimes", *RUNTIMES)
    assert (code, errors) == (0, [])
    lines = out.splitlines()
    times, agreement = rows(lines, "ms"), rows(lines, "agreement")
    assert times["ms"] == ["stock", "none", "n2d"]
    for title in RUNTIMES.values():
        assert [cell.count("x)") for cell in times[title]] == [1, 0, 1]
        assert all(float(cell) > 99 for cell in agreement[title])
    assert "ONNX Runtime 1." in lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "big"], "--size big is not HxW"),
        (["--size", "64x64", "--presets", "hqq"], "hqq"),
        (["--size", "64x64", "--rounds", "0"], "must be at least 1"),
        (["--size", "64x64", "--runtimes", "tvm"], "unknown runtime 'tvm'; allowed: torch, onnx"),
    ],
)
def test_what_cannot_be_measured(tool, segmenter, options, message):
    code, _, errors = tool("benchmark_export", *segmenter, *options)
    assert code == 2
    assert message in errors[0]


def test_a_runtime_that_computes_something_else_is_refused():
    from mmseg_tome.export.metadata import OUTPUT, Metadata
    from mmseg_tome.lab.exported.runtimes import Task, Torch

    per_channel = [[8, 8], [0.0] * 3, [1.0] * 3]
    metadata = Metadata("segmentation", *per_channel, "RGB", OUTPUT["segmentation"], [], "none")
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    torchs = Torch(Task(None, metadata, None, images, 1, 18, 64, None))
    torchs.networks["right"] = lambda images: images
    assert torchs.agreement("right", images) == 1
    torchs.networks["wrong"] = lambda images: images[:, ::-1]
    with pytest.raises(UserError, match="wrong in torch differs from torch"):
        torchs.agreement("wrong", images)


def test_the_page_of_a_browser(tool, segmenter):
    from mmseg_tome.lab import browser

    try:
        browser.check()
    except UserError as error:
        pytest.skip(str(error))
    options = ["--size", "64x96", "--presets", "none", "--rounds", "2", "--threads", "1"]
    code, out, errors = tool("benchmark_export", *segmenter, *options, "--runtimes", "web")
    assert (code, errors) == (0, [])
    lines = out.splitlines()
    (cells,) = [rows(lines, "ms")["ONNX Runtime Web"]]
    assert all(float(cell.split()[0]) > 0 for cell in cells)
    assert all(float(cell) > 99 for cell in rows(lines, "agreement")["ONNX Runtime Web"])


def test_what_a_page_needs_is_missed_before_anything_is_exported(tool, segmenter, monkeypatch):
    from mmseg_tome.lab import browser
    from mmseg_tome.lab.exported import runtimes

    monkeypatch.setattr(browser, "check", lambda: None)
    monkeypatch.delattr(runtimes.Task, "onnx")
    options = ["--size", "64x64", "--runtimes", "onnx", "web", "--ort-web", "nowhere"]
    code, _, errors = tool("benchmark_export", *segmenter, *options)
    assert (code, "--ort-web nowhere cannot be read" in errors[0]) == (2, True)


@pytest.fixture
def web(monkeypatch, tmp_path):
    """The runtime of a browser for logits of so many channels, without a browser."""
    from mmseg_tome.export.metadata import OUTPUT, Metadata
    from mmseg_tome.lab.exported import runtimes

    monkeypatch.setattr(runtimes, "copy_ort_web", lambda folder, source: None)
    task, per_channel = "segmentation", [[8, 8], [0.0] * 3, [1.0] * 3]
    metadata = Metadata(
        task, *per_channel, "RGB", OUTPUT[task], ["a", "b"], "none", threshold=0.6,
        inference=dict(model=dict(decode_head=dict(align_corners=True))),
    )  # fmt: skip
    images = np.zeros((1, 3, 8, 8), np.float32)
    return runtimes.Browser(runtimes.Task(tmp_path, metadata, None, images, 1, 18, 64, None))


@pytest.mark.parametrize("channels", [1, 4])
def test_classes_of_a_page_are_those_that_infer_would_give(web, monkeypatch, channels):
    logits = torch.randn(1, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(logits, (8, 8), mode="bilinear", align_corners=True)[0]
    classes = large.argmax(0) if channels > 1 else (large[0].sigmoid() > 0.6).long()
    monkeypatch.setattr(web, "_segment", lambda *_: classes.flatten().tolist())
    assert web.agreement("n2d", logits.numpy()) == 1
    monkeypatch.setattr(web, "_segment", lambda *_: classes.flip(1).flatten().tolist())
    with pytest.raises(
        UserError, match=r"n2d in ONNX Runtime Web differs from torch: .* agreement"
    ):
        web.agreement("n2d", logits.numpy())


def test_what_fails_in_a_page_is_told(web):
    web.driver = SimpleNamespace(execute_async_script=lambda script, name: "it is damaged")
    with pytest.raises(UserError, match="n2d in ONNX Runtime Web: it is damaged"):
        web.time("n2d")


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_what_is_run_knows_a_single_channels_class(tmp_path, threshold):
    from mmseg_tome.lab.exported.command import describe

    head = dict(num_classes=2, out_channels=1, **(dict(threshold=threshold) if threshold else {}))
    cfg = Config(dict(model=dict(decode_head=head)))
    args = SimpleNamespace(config="a.py", threads=1, opset=20, scores_mib=64, ort_web=None)
    metadata = describe(
        cfg, {"none": SimpleNamespace(channels=3)}, (64, 96), tmp_path, args
    ).metadata
    assert (metadata.threshold, len(metadata.names)) == (threshold, 2)
