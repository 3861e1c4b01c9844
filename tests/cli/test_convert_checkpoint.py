"""`tools/convert_checkpoint.py` as a user runs it, in this process."""

import json
import os
import pickle
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.checkpoints import Checkpoint
from mmseg_tome.checkpoints.architecture import VARIANTS, Architecture, Head
from mmseg_tome.checkpoints.writing import write, write_hugging_face

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("sky", "sea", "land")


@pytest.fixture
def convert(tool):
    """Run `convert`: its exit code, what it printed, and the lines that name errors."""
    return partial(tool, "convert")


@pytest.fixture
def mistake(convert, tmp_path):
    """Run the tool and return the one line with which it refuses, having changed nothing."""

    def contents() -> dict[Path, bytes | None]:
        return {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")}

    def run(*args) -> str:
        before = contents()
        code, _, errors = convert(*args)
        assert (code, len(errors)) == (2, 1)
        assert contents() == before
        return errors[0]

    return run


def make_checkpoint(variant: str | None = None, linear: bool = True) -> Checkpoint:
    architecture = Architecture(3, *VARIANTS[variant] if variant else (8, (1, 1, 1, 1)))
    head = Head("segmentation", linear, 16, len(NAMES))
    shapes = {**dict(architecture.shapes()), **dict(head.shapes(architecture.channels))}
    state = {key: torch.rand(shape) / 10 for key, shape in shapes.items()}
    palette = ((0, 0, 255), (0, 255, 0), (255, 0, 0))
    return Checkpoint(state, "a test", architecture, head, 1e-5, NAMES, palette)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A Hugging Face folder."""
    write_hugging_face(make_checkpoint(), tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def stock(tmp_path) -> Path:
    """A file with mmseg's head."""
    write(make_checkpoint(linear=False), tmp_path / "stock.pth")
    return tmp_path / "stock.pth"


def test_inspect(convert, folder):
    code, printed, _ = convert(folder, "--inspect")
    assert code == 0
    for line in (
        "format:     Hugging Face transformers",
        "variant:    MiT of another size (channels [8, 16, 40, 64], blocks [1, 1, 1, 1])",
        "task:       segmentation",
        "classes:    3 (sky, sea, land)",
        f"parameters: {make_checkpoint().parameters:,}",
    ):
        assert line in printed.splitlines()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["in"]


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_converted_runs_in_one_step(tool, convert, folder, tmp_path, suffix):
    out, config = tmp_path / f"out{suffix}", tmp_path / "configs" / "out.py"
    code, printed, _ = convert(folder, out, "--config", config)
    assert code == 0
    assert f"written: {out}\nwritten: {config}\n" in printed
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    shrink = "test_dataloader.dataset.pipeline.1.scale=(96,64)"
    results = tmp_path / "results"
    args = (photo, "--config", config, "--out", results, "--cfg-options", shrink)
    assert tool("infer", *args)[0] == 0
    found = json.loads((results / "results.json").read_text())
    assert found["classes"] == list(NAMES)


def test_there_and_back(convert, folder, tmp_path):
    middle, back = tmp_path / "middle.safetensors", tmp_path / "back"
    assert convert(folder, middle)[0] == 0
    assert convert(middle, back, "--to", "hf")[0] == 0
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in back.iterdir()) == files
    for name in files:
        assert (back / name).read_bytes() == (folder / name).read_bytes()


def test_backbone_only(convert, stock, tmp_path):
    out = tmp_path / "backbone.pth"
    assert convert(stock, out, "--backbone-only")[0] == 0
    saved = torch.load(out, weights_only=True)
    assert all(key.startswith("layers.") for key in saved["state_dict"])
    assert "dataset_meta" not in saved["meta"]
    assert convert(stock, tmp_path / "hf", "--backbone-only", "--to", "hf")[0] == 0


def test_force_replaces_files_and_folders(convert, folder, tmp_path):
    out, hf = tmp_path / "out.pth", tmp_path / "hf"
    out.write_text("old")
    hf.mkdir()
    (hf / "config.json").write_text("{}")
    assert convert(folder, out, "--force")[0] == 0
    assert torch.load(out, weights_only=True)["meta"]["dataset_meta"]["classes"] == list(NAMES)
    assert convert(out, hf, "--to", "hf", "--force")[0] == 0
    assert (hf / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "in", "out.pth"]


def test_named_classes(convert, mistake, stock, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n\nc d\n")
    code, printed, _ = convert(stock, "--inspect", "--classes", names)
    assert code == 0
    assert "(a, b, c d)" in printed
    names.write_text("a\nb\n")
    out = tmp_path / "out.pth"
    assert "it names 2 classes, its classifier predicts 3" in mistake(
        stock, out, "--classes", names
    )
    assert "no.txt does not exist" in mistake(stock, out, "--classes", tmp_path / "no.txt")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{in}"], "name OUT"),
        (["{in}", "{tmp}/out.bin"], "OUT must be a .pth or .safetensors file"),
        (["{in}", "{tmp}/out.pth", "--config", "{tmp}/out.txt"], "-config must be a .py file"),
        (
            ["{in}", "{tmp}/out", "--to", "hf", "--config", "{tmp}/out.py"],
            "-config is for files of",
        ),
        (["{in}", "{tmp}/out.pth", "--to", "hf"], "with --to hf, OUT is a folder"),
        (["{in}", "{tmp}", "--to", "hf"], "is no Hugging Face model"),
        (["{in}", "{stock}"], "stock.pth exists; --force replaces it"),
        (["{stock}", "{stock}", "--force"], "stock.pth is IN itself"),
        (["{stock}", "{tmp}/out", "--to", "hf"], "stock.pth: its head has a norm and a ReLU"),
        (
            ["{stock}", "{tmp}/o.pth", "--dataset", "camvid"],
            "camvid has 11 classes, the checkpoint",
        ),
        (["{tmp}/no.pth", "{tmp}/out.pth"], "no.pth does not exist"),
        (["{tmp}", "{tmp}/out.pth"], "has no checkpoint: none of model.safetensors"),
        (["{in}", "{in}/config.json/out.pth"], "config.json/out.pth: "),
    ],
)
def test_mistakes(mistake, folder, stock, tmp_path, args, message):
    places = {"in": folder, "stock": stock, "tmp": tmp_path}
    assert message in mistake(*(arg.format(**places) for arg in args))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("truncated.pth", lambda whole: whole[: len(whole) // 2], "truncated"),
        ("truncated.safetensors", lambda whole: whole[:1000], "not a safetensors file"),
        ("text.pth", lambda whole: b"no checkpoint", "text.pth is not a checkpoint"),
        ("empty.pth", lambda whole: b"", "empty.pth"),
        ("code.pth", lambda whole: pickle.dumps(dict(a=Bomb()), protocol=2), "wants to run"),
    ],
)
def test_bad_files(mistake, stock, tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content(stock.read_bytes()))
    assert message in mistake(tmp_path / name, tmp_path / "out.pth")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"fc.weight": torch.zeros(1)}, "none of its 1 keys is one of SegFormer"),
        (lambda state: {**state, "extra.weight": torch.zeros(1)}, "1 of 120 keys (extra.weight)"),
        (
            lambda state: {**state, "decode_head.conv_seg.bias": torch.zeros(4)},
            "decode_head.conv_seg.bias is (4,), not (3,)",
        ),
        (
            lambda state: {k: v for k, v in state.items() if k != "decode_head.conv_seg.bias"},
            "lacks 1 of 119 parameters: decode_head.conv_seg.bias",
        ),
    ],
)
def test_bad_layouts(mistake, tmp_path, change, message):
    torch.save(change(make_checkpoint(linear=False).state), tmp_path / "bad.pth")
    error = mistake(tmp_path / "bad.pth", tmp_path / "out.pth", "--config", tmp_path / "out.py")
    assert message in error
    assert "bad.pth" in error


def test_nothing_half_written(mistake, stock, tmp_path, monkeypatch):
    """A disk that fills up leaves the old file, and no part of the new one."""
    out = tmp_path / "out.pth"
    out.write_text("old")

    def fill_up(path, content):
        path.write_text("a part")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    assert f"cannot write {out}: No space left on device" in mistake(stock, out, "--force")
    assert out.read_text() == "old"
