"""One name for one thing in every command, positional or not, and what was typed before."""

import os
from importlib import import_module

import pytest

from mmseg_tome.cli import options
from mmseg_tome.errors import UserError

NAME = "segformerpp_fast_cityscapes"


def read(command: str, line: str):
    return import_module(f"mmseg_tome.cli.{command}").parse_args(line.split())


@pytest.mark.parametrize(
    ("command", "before", "now"),
    [
        ("test", "c.py a.pth --tta", "--config c.py --tta --checkpoint a.pth"),
        ("train", "c.py --amp", "--config c.py --amp"),
        ("infer", "x.jpg d/ --config c --checkpoint a.pth --out o", "c a.pth x.jpg d/ --out o"),
        ("infer", "x.jpg --config c.py --out o", "c.py x.jpg --out o"),
        ("infer", "x.jpg y.jpg --model m.onnx --out o", "--model m.onnx --out o x.jpg y.jpg"),
        ("visualize", "a.png --config c --out o --tome-cfg hq", "c a.png --out o --preset hq"),
        ("export", "--config c.py --checkpoint a.pth --out m.onnx", "c.py a.pth --out m.onnx"),
        ("export", "--config c.py --half --out m.onnx", "c.py --dtype float16 --out m.onnx"),
        ("convert", "a.pth b.pth --config b.py", "a.pth --out b.pth --write-config b.py"),
        ("convert", "a.pth --inspect", "--inspect --checkpoint a.pth"),
        ("convert_camvid", "release out --force", "release --force --out out"),
        ("sweep", "--model c c.py a.pth b.pth --batch 2", "c.py a.pth b.pth --batch-size 2"),
        ("tune", "--config c.py --checkpoint a.pth --target 2x --batch 2",
         "c.py a.pth --target 2x --batch-size 2"),
        ("benchmark", "--configs c.py d.py --batch 1 2 --device cuda",
         "c.py d.py --batch-size 1 2 --device cuda"),
        ("benchmark", "--presets hq n2d", "--preset hq n2d"),
        ("benchmark_export", "--config c.py --size 8x8", "c.py --size 8x8"),
        ("benchmark_huggingface", "--model b1 --batch 2", "b1 --batch-size 2"),
        ("reproduce", "ade20k --rows hq", "ade20k --presets hq"),
    ],
)  # fmt: skip
def test_old_and_new_spellings_mean_the_same(command, before, now):
    found, expected = (vars(read(command, line)) for line in (before, now))
    if command == "sweep":  # what is positional is kept as it was given, too
        for args in (found, expected):
            args.pop("config"), args.pop("checkpoint")
    assert found == expected


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train", f"{NAME}"),
        ("test", f"{NAME} a.pth"),
        ("infer", f"{NAME} a.pth x.jpg --out o"),
        ("export", f"{NAME} --out m.onnx"),
        ("tune", f"{NAME} a.pth --target 2x"),
        ("benchmark", NAME),
        ("sweep", f"--model b5 {NAME} a.pth"),
    ],
)
def test_our_configs_are_known_by_name(command, line, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = read(command, line)
    found = dict(benchmark=lambda: args.configs[0], sweep=lambda: args.model[0][1])
    path = found.get(command, lambda: args.config)()
    assert path == str(repo / "configs" / f"{NAME}.py")


def test_a_preset_is_the_configs_tome_cfg():
    pytest.importorskip("mmengine")
    assert read("test", "c.py --preset hq").cfg_options == {"model.backbone.tome_cfg": "hq"}
    args = read("infer", "c.py x.jpg --out o --preset n2d --cfg-options work_dir=w")
    assert args.cfg_options == {"model.backbone.tome_cfg": "n2d", "work_dir": "w"}


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        ("test", "", "required: CONFIG"),
        ("train", "c.py a.pth", "unrecognized arguments: a.pth"),
        ("infer", "x.jpg --out o", "required: INPUT"),
        ("infer", "x.jpg --config c.py --model m.onnx --out o", "not allowed with"),
        ("tune", "c.py --target 2x", "required: CHECKPOINT"),
        ("test", "c.py --quiet --verbose", "not allowed with"),
        ("test", "c.py --batch-size 0", "must be at least 1"),
    ],
)
def test_what_is_missing_or_too_much(command, line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        read(command, line)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "seen", "then"),
    [
        (None, "0,1", "0,1"),
        ("cuda", None, None),
        ("cpu", "0,1", ""),
        ("cuda:1", None, "1"),
        ("cuda:1", "4,5", "5"),
        ("cuda:2", "4,5", ""),
    ],
)
def test_a_device_is_all_that_torch_sees(monkeypatch, device, seen, then):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    before = dict(os.environ)
    options.see_only(device)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == then
    monkeypatch.setattr(os, "environ", before)


def test_an_unknown_device_is_named():
    with pytest.raises(UserError, match="unknown device 'gpu'; use cpu, cuda or cuda:N"):
        options.see_only("gpu")


def test_the_list_of_configs(capsys):
    from mmseg_tome.cli.configs import main

    assert main(["b0/*_n2d_ade20k"]) == 0
    assert capsys.readouterr().out == "b0/segformerpp_b0_n2d_ade20k\n"
    assert main(["nothing"]) == 2
    assert "no config of ours fits 'nothing'" in capsys.readouterr().err
