"""benchmark_huggingface.py: a row for the model as it is and for every preset, and clear errors."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("mmengine")

TOOL = Path(__file__).resolve().parents[3] / "tools" / "benchmark_huggingface.py"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run the tool; gives its exit code, output and errors."""

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [TOOL.name, *args])
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_every_preset_has_a_row_beside_the_model_as_it_is(tool):
    code, out, _ = tool("--size", "64x96", "--rounds", "1", "--presets", "none", "fast-prop")
    assert code == 0
    rows = [line.split("  ")[0] for line in out.splitlines() if re.search(r"\dx$", line)]
    assert rows == ["as it is", "none", "fast-prop"]
    assert torch.__version__ in out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--size", "64"], "--size 64 is not HxW"),
        (["--size", "16x64"], "--size 16x64: both sides must be at least 32"),
        (["--presets", "quick", "--size", "64x64"], "unknown preset 'quick'"),
        (["--model", "."], "--model .: neither one of b0, b1"),
        (["--rounds", "0"], "--rounds and --batch must be at least 1"),
        (["--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_mistakes_are_one_line(tool, args, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an empty folder
    code, out, errors = tool(*args)
    assert (code, out) == (2, "")
    assert expected in errors.splitlines()[-1]


def test_a_model_that_computes_something_else_is_not_timed(tool, monkeypatch):
    from mmseg_tome.lab.bench import huggingface

    def halve(model, tome_cfg):
        model.decode_head.classifier.weight.data /= 2
        return model

    monkeypatch.setattr(huggingface, "apply_merging", halve)
    code, out, errors = tool("--size", "64x64", "--rounds", "1", "--presets", "hq")
    assert (code, out) == (2, "")
    assert "without merging the outputs differ" in errors


def test_a_model_of_four_channels_is_timed(tool, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_sizes=[8, 16, 40, 64], depths=[1] * 4, num_attention_heads=[1, 2, 5, 8])
    config = transformers.SegformerConfig(num_channels=4, decoder_hidden_size=16, **sizes)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    args = ["--model", str(tmp_path), "--size", "64x96", "--rounds", "1", "--presets", "n2d"]
    code, out, errors = tool(*args)
    assert code == 0, errors
    assert "n2d" in out
