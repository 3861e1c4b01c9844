"""Weights into models of torch alone: of every format, without running code, or not at all."""

import os
import pickle

import numpy as np
import pytest
import torch

from mmseg_tome import compat, create_model, load_weights
from mmseg_tome.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(**options):
    return create_model("b0", 4, channels=16, **options).eval()


def equal(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("task", ["segmentation", "pose"])
@pytest.mark.parametrize("counters", [True, False])
def test_what_was_saved_is_loaded(tmp_path, task, counters):
    saved = tiny(task=task)
    state = {k: v for k, v in saved.state_dict().items() if counters or "num_batches" not in k}
    torch.save(dict(state_dict=state), tmp_path / "model.pth")
    model = tiny(task=task)
    assert not equal(model, saved)
    assert load_weights(model, tmp_path / "model.pth") is model
    assert equal(model, saved)


def test_safetensors_are_loaded(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    saved, model = tiny(), tiny()
    state = {key: value.contiguous() for key, value in saved.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    assert equal(load_weights(model, tmp_path / "model.safetensors"), saved)


def test_weights_of_a_backbone_alone_go_into_the_backbone(tmp_path):
    saved, model = tiny(), tiny()
    torch.save(saved.backbone.state_dict(), tmp_path / "mit.pth")
    load_weights(model, tmp_path / "mit.pth")
    assert equal(model.backbone, saved.backbone)
    assert not equal(model, saved)


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs an mm stack")
def test_what_mmengine_saves_beside_weights_is_left_aside(tmp_path):
    from mmengine.logging import HistoryBuffer

    saved, model = tiny(), tiny()
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    hub = dict(log_scalars={"train/loss": history}, runtime_info=dict(iter=np.float64(3)))
    checkpoint = dict(meta=dict(iter=2), state_dict=saved.state_dict(), message_hub=hub)
    torch.save(checkpoint, tmp_path / "iter_2.pth")
    assert equal(load_weights(model, tmp_path / "iter_2.pth"), saved)


class Code:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_code_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=tiny().state_dict(), more=Code()), "model.pth")
    with pytest.raises(CheckpointError, match=r"wants to run.*system"):
        load_weights(tiny(), "model.pth")
    assert not (tmp_path / "ran").exists()


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "model.pth"
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for other, said in (
        (create_model("b0", 5, channels=16), "it has 5 classes, the model has 4"),
        (create_model("b1", 4, channels=16), "segmentation by b1"),
        (create_model("b0", 4, channels=16, linear=True), "channels=16, linear=True"),
        (tiny(task="pose"), "pose by b0"),
    ):
        torch.save(dict(state_dict=other.state_dict()), path)
        with pytest.raises(CheckpointError, match=said):
            load_weights(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_weights(tiny(), tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        load_weights(tiny(), tmp_path / "text.pth")
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(CheckpointError, match=r"list\.pth"):
        load_weights(tiny(), tmp_path / "list.pth")
