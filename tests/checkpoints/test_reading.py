"""Files, folders and names on the hub."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from mmseg_tome.checkpoints import ConversionError
from mmseg_tome.checkpoints.loading import load_from_local
from mmseg_tome.checkpoints.reading import find_state, read_source

STATE = {"a.weight": torch.ones(2)}


@pytest.mark.parametrize(
    "saved",
    [
        STATE,
        dict(state_dict=STATE, meta={}, optimizer={}),
        dict(model=STATE, epoch=3),
        dict(state_dict={f"module.{key}": value for key, value in STATE.items()}),
    ],
    ids=["bare", "mm", "timm", "parallel"],
)
def test_parameters_are_found(saved):
    assert find_state(saved, "file").keys() == STATE.keys()


@pytest.mark.parametrize("saved", [None, [], {}, dict(state_dict={})])
def test_nothing_by_name(saved):
    with pytest.raises(ConversionError, match="file is not a checkpoint: it has no weights"):
        find_state(saved, "file")


def test_entries_that_are_no_tensors():
    with pytest.raises(ConversionError, match=r"1 of its 2 entries are no tensors \(epoch\)"):
        find_state({**STATE, "epoch": 3}, "file")


def test_empty_folder(tmp_path):
    with pytest.raises(ConversionError, match=r"none of model.safetensors, .* is there"):
        read_source(str(tmp_path), load_from_local)


def test_broken_json(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConversionError, match=r"config\.json is not JSON"):
        read_source(str(tmp_path), load_from_local)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConversionError, match=r"config\.json is not a JSON object"):
        read_source(str(tmp_path), load_from_local)


def test_index_reads_nothing_outside_its_folder(tmp_path):
    torch.save(STATE, tmp_path / "outside.bin")
    folder = tmp_path / "hf"
    folder.mkdir()
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps(dict(weight_map={"a.weight": "../outside.bin"})))
    with pytest.raises(ConversionError, match=r"1 are missing: outside\.bin"):
        read_source(str(index), load_from_local)


def test_index_promises_too_much(tmp_path):
    torch.save(STATE, tmp_path / "one.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps(dict(weight_map={"a.weight": "one.bin", "b.bias": "one.bin"})))
    with pytest.raises(ConversionError, match=r"keys that no shard has: b\.bias"):
        read_source(str(tmp_path), load_from_local)


def test_hub(monkeypatch, tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, "*.bin" in allow_patterns))
        return str(tmp_path)

    hub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert read_source("owner/model", load_from_local).state.keys() == STATE.keys()
    assert asked == [("owner/model", False), ("owner/model", True)]  # safetensors are preferred

    def fail(*args, **kwargs):
        raise OSError("no network\nand more")

    hub.snapshot_download = fail
    with pytest.raises(ConversionError, match=r"\(no network\): download it where you can"):
        read_source("owner/model", load_from_local)


def test_hub_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConversionError, match="pip install huggingface_hub, or download it"):
        read_source("owner/model", load_from_local)


@pytest.mark.parametrize("name", ["no_such.pth", "folder/no_such.pth", "/no/such/folder"])
def test_no_such_file(name):
    with pytest.raises(ConversionError, match=f"{name} does not exist"):
        read_source(name, load_from_local)
