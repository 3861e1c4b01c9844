"""Configs and options that cannot be read: one line that names the file, the line, the key."""

import argparse
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_tome.config import add_cfg_options, read_config_file
from mmseg_tome.errors import UserError

CONFIG = """
model = dict(type="A", backbone=dict(type="B", depths=[1, 2], init_cfg=None))
train_dataloader = dict(dataset=dict(pipeline=[dict(type="Load"), dict(type="Pack")]))
val_evaluator = dict(type="Metric")
"""


@pytest.fixture
def write(tmp_path):
    """Write a config and return its path."""

    def write(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def refusal(path: str, options: dict | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_config_file(path, options)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_base_ = 'nowhere.py'", "_base_ {folder}/nowhere.py does not exist"),
        (
            "_base_ = 'mmseg_tome::segformerpp_qualty_ade20k.py'",
            "_base_ mmseg_tome::segformerpp_qualty_ade20k.py does not exist; is it "
            "segformerpp_quality_ade20k",
        ),
        ("_base_ = ['good.py', 'bad.py']", "in {folder}/bad.py: '(' was never closed (line 3)"),
        ("_base_ = 'name.py'", "in {folder}/name.py: NameError: name 'hd' is not defined (line 2)"),
        ("\n\nmodel = dict(\n", "mine.py: '(' was never closed (line 3)"),
        ("model = dict(a=1 b=2)", "(line 1)"),
        ("\nmodel = dict(a=b)", "NameError: name 'b' is not defined (line 2)"),
        ("model = dict()\nx = 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("custom_imports = dict(imports=['no_such'])\nmodel = dict()", "Failed to import no_such"),
        ("_base_ = 'good.py'\nx = {{_base_.nothing}}", "nothing"),
        ("_base_ = ['good.py', 'good.py']", "Duplicate key is not allowed among bases"),
        ("_base_ = 'good.py'\nmodel = dict(type=dict())", "type={{}} in child config cannot"),
        ("_base_ = 3", "mine.py: "),
        ("filename = 'x'", "filename is reserved"),
        ("model = 3", "model must be a dict, it is 3"),
        ("x = 3", "has no model: it is a part of other configs"),
        (
            "_base_ = 'mmseg::nowhere/nothing.py'",
            "mmseg/.mim/configs/nowhere/nothing.py does not exist",
        ),
    ],
)
def test_configs(write, tmp_path, text, message):
    write(CONFIG, "good.py")
    write("a = 1\n\nmodel = dict(\n", "bad.py")
    write("\nmodel = dict(a=hd)", "name.py")
    line = refusal(write(text))
    assert line.startswith(f"config {tmp_path}/mine.py")
    assert message.format(folder=tmp_path) in line


@pytest.mark.parametrize("name", ["mine.json", "mine.yaml", "mine.txt", "mine"])
def test_other_files(write, name):
    assert f"{name}: " in refusal(write("{", name))


def test_bytes_folders_and_nothing(tmp_path):
    (tmp_path / "mine.py").write_bytes(b"\x00\xff")
    assert "mine.py: " in refusal(str(tmp_path / "mine.py"))
    assert refusal(str(tmp_path)).endswith("is a folder")
    assert refusal("nowhere.py") == "config nowhere.py does not exist"


PIPELINE = "train_dataloader.dataset.pipeline"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.backbne.type", "the config has no model.backbne; is it model.backbone?"),
        ("modle.type", "the config has no modle; is it model?"),
        ("val_evaluatr", "the config has no val_evaluatr; is it val_evaluator?"),
        (f"{PIPELINE}.7.type", f"there is no {PIPELINE}.7, the list has 2 entries"),
        (f"{PIPELINE}.x.type", f"{PIPELINE} is a list, in which 'x' is no index"),
        ("model.backbone.type.x", "cannot inherit from base"),
    ],
)
def test_options(write, key, message):
    line = refusal(write(CONFIG), {"work_dir": "a", key: 1})
    assert line.startswith(f"--cfg-options {key}: ")
    assert message in line


@pytest.mark.parametrize(
    "key",
    ["work_dir", "test_evaluator.type", "model.backbone.typ", "model.neck.type", f"{PIPELINE}.1.x"],
)
def test_options_may_be_new(write, key):
    cfg = read_config_file(write(CONFIG), {key: 1})
    for part in key.split("."):
        cfg = cfg[int(part) if part.isdecimal() else part]
    assert cfg == 1


def parse(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    return parser.parse_args(words).cfg_options


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a.=1", "a=(1,2"])
def test_what_is_no_option(text, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--cfg-options", "b=1", text)
    assert stop.value.code == 2
    assert "error: argument --cfg-options: " in capsys.readouterr().err


def test_options_as_mmengine_reads_them():
    words = ["a.b=1", "c=[1,(2,3)]", "d=x=y", "e=", "f=none", "g=True"]
    expected = {"a.b": 1, "c": [1, (2, 3)], "d": "x=y", "e": "", "f": "none", "g": True}
    assert parse("--cfg-options", *words) == expected
    assert parse("--cfg-options", "a=1", "b=1", "--cfg-options", "a=2") == {"a": 2, "b": 1}


def test_every_config_is_read(repo):
    for path in sorted((repo / "configs" / "b0").glob("*ade20k.py")):
        assert read_config_file(str(path), {"model.backbone.tome_cfg": "hq"}).model.type
    assert isinstance(read_config_file(str(path)), Config)
    assert Path(path).is_file()


@pytest.mark.parametrize(
    "name", ["b0/segformerpp_b0_fast_ade20k.py", "segformerpp_b0_fast_ade20k", "b0/fast.py"]
)
def test_a_base_of_ours_by_name_from_any_folder(repo, write, name, monkeypatch, tmp_path):
    """The scope of classes stays mmseg's, which mmengine's own reading of `::` would change."""
    monkeypatch.chdir(tmp_path)
    mine = write(f"_base_ = 'mmseg_tome::{name}'\nwork_dir = 'here'")
    if name == "b0/fast.py":
        assert "does not exist" in refusal(mine)
        return
    cfg = read_config_file(mine).to_dict()
    assert cfg.pop("work_dir") == "here"
    assert cfg == read_config_file(repo / "configs/b0/segformerpp_b0_fast_ade20k.py").to_dict()


def test_a_part_of_ours_as_base(write):
    mine = write("_base_ = 'mmseg_tome::_base_/models/segformer_mit_b1.py'")
    assert read_config_file(mine).model.backbone.embed_dims == 64
