"""Checkpoints from strangers: what loads, and what is refused with which words."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint

from mmseg_tome.checkpoints import loading
from mmseg_tome.errors import CheckpointError


class Malicious:
    """Unpickling this creates the file `path`."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture(autouse=True)
def installed():
    """mmengine loads by ours."""
    loading.install()


def save(path: Path, content) -> str:
    torch.save(content, path)
    return str(path)


def test_what_mmengine_saves_loads(tmp_path):
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    hub = dict(log_scalars={"loss": history}, runtime_info=dict(iter=3, lr=np.float64(0.1)))
    colours = [np.array([0, 255], dtype=np.uint8)]
    content = dict(
        state_dict={"w": torch.ones(2)}, message_hub=hub, meta=dict(dataset_meta=colours)
    )
    loaded = _load_checkpoint(save(tmp_path / "mm.pth", content))
    assert loaded["state_dict"]["w"].tolist() == [1, 1]
    assert loaded["message_hub"]["log_scalars"]["loss"].mean() == 0.375
    assert loaded["meta"]["dataset_meta"][0].tolist() == [0, 255]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_by_name_and_not_run(tmp_path, zipped, protocol):
    mark, path = tmp_path / "was_run", tmp_path / "evil.pth"
    content = dict(state_dict={}, meta=Malicious(mark))
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"wants to run .*(touch|getattr|pathlib)") as error:
        _load_checkpoint(str(path))
    assert "--trust-checkpoint" in str(error.value)
    assert loading.TRUST_VARIABLE in str(error.value)
    assert not mark.exists()


def test_getattr_reaches_only_statistics_of_a_history(tmp_path):
    class Reach:
        def __reduce__(self):
            return (getattr, (HistoryBuffer, "__init__"))

    with pytest.raises(CheckpointError, match="wants to run getattr"):
        _load_checkpoint(save(tmp_path / "reach.pth", dict(x=Reach())))


def test_the_user_can_trust_a_checkpoint(tmp_path, monkeypatch):
    mark = tmp_path / "was_run"
    path = save(tmp_path / "mine.pth", dict(state_dict={}, meta=Malicious(mark)))
    monkeypatch.setenv(loading.TRUST_VARIABLE, "1")
    _load_checkpoint(path)
    assert mark.exists()


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(3.0)}, path, metadata={"dataset": "camvid"})
    loaded = _load_checkpoint(str(path), map_location="cpu")
    assert loaded["state_dict"]["w"].tolist() == [0, 1, 2]
    assert loaded["meta"] == {"dataset": "camvid"}


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_damaged_files_are_named(tmp_path, name):
    whole = Path(save(tmp_path / "whole.pth", dict(state_dict={"w": torch.ones(1000)})))
    path = tmp_path / name
    path.write_bytes(whole.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=name):
        _load_checkpoint(str(path))
    path.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=name):
        _load_checkpoint(str(path))


@pytest.mark.parametrize("legacy", [True, False])
def test_bytes_that_change_on_the_way_end_in_no_traceback(tmp_path, legacy):
    random.seed(0)
    path = tmp_path / "damaged.pth"
    content = dict(state_dict={"w": torch.ones(3)}, meta={"name": "abc"})
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    whole, refusals = path.read_bytes(), []
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.randrange(len(whole))] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            loading.load_from_local(str(path))  # some bytes do not matter
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all("damaged.pth" in said for said in refusals)


@pytest.mark.parametrize("text", ["epoch,loss\n1,2\n", "not a checkpoint", "# notes", "{}", "1"])
def test_a_text_is_not_a_checkpoint(tmp_path, text):
    path = tmp_path / "notes.pth"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"notes\.pth is .*not a checkpoint") as caught:
        _load_checkpoint(str(path))
    assert not str(caught.value).endswith(tuple("0123456789"))  # of an opcode


def test_a_plain_pickle_is_not_a_checkpoint(tmp_path):
    mark = tmp_path / "was_run"
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(CheckpointError, match="plain"):
        _load_checkpoint(str(path))
    assert not mark.exists()


def test_missing_file():
    with pytest.raises(CheckpointError, match=r"checkpoint nowhere.pth does not exist"):
        _load_checkpoint("nowhere.pth")


def test_a_zoo_that_cannot_be_reached_says_where_the_file_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = "http://127.0.0.1:9/segformer-0123abcd.pth"  # nothing listens there
    with pytest.raises(CheckpointError, match=r"cannot download http://127.0.0.1:9") as error:
        _load_checkpoint(url)
    expected = tmp_path / "checkpoints" / "segformer-0123abcd.pth"
    assert str(expected) in str(error.value)
    assert not list(tmp_path.rglob("*.pth"))
    save(expected, dict(state_dict={"w": torch.ones(1)}))  # put there by hand, it is used
    assert _load_checkpoint(url)["state_dict"]["w"] == 1


def test_other_schemes_unpickle_no_code_either(tmp_path):
    from mmengine.runner import CheckpointLoader

    path = save(tmp_path / "evil.pth", Malicious(tmp_path / "was_run"))

    def from_a_zoo(filename, map_location=None):
        return torch.load(path, map_location=map_location, weights_only=False)

    guarded = loading._without_pickled_code(from_a_zoo)
    with pytest.raises(CheckpointError, match="wants to run"):
        guarded("zoo://evil")
    assert not (tmp_path / "was_run").exists()
    assert torch.load.__module__ == "torch.serialization"
    schemes = dict(CheckpointLoader._schemes)
    schemes.pop("exported://", None)  # of `export.reader`, which unpickles nothing
    for prefix, loader in schemes.items():
        assert loader.__module__ == "mmseg_tome.checkpoints.loading", prefix
