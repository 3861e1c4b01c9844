import pytest
import torch
from mmengine.config import Config

from mmseg_tome import compat

if not compat.has("mmseg"):
    pytest.skip("needs mmseg", allow_module_level=True)

from mmseg_tome.checkpoints.model import find_classes, load_model
from mmseg_tome.errors import CheckpointError

COLOURS = [[1, 2, 3], [4, 5, 6]]


def config(**dataset) -> Config:
    return Config(dict(test_dataloader=dict(dataset=dict(**dataset))))


def test_the_checkpoint_knows_its_classes():
    own = dict(classes=["a", "b"], palette=COLOURS)
    cfg = config(type="CityscapesDataset", metainfo=dict(classes=["c", "d"]))
    assert find_classes(dict(dataset_meta=own), cfg, 2) == own
    assert find_classes(dict(CLASSES=("a", "b"), PALETTE=COLOURS), cfg, 2) == {
        "classes": ("a", "b"),
        "palette": COLOURS,
    }


def test_the_configs_data_set_is_next():
    found = find_classes({}, config(type="mmseg_tome.CamVidDataset"), 11)
    assert found["classes"][0] == "Sky"
    assert found["palette"][1] == [128, 0, 0]
    meta = dict(dataset_meta=dict(classes=found["classes"]))  # colours of the config
    assert find_classes(meta, config(type="mmseg_tome.CamVidDataset"), 11) == found


def test_classes_that_nobody_names():
    meta = dict(dataset_meta=dict(classes=["a"], palette=COLOURS[:1]))  # of another model
    found = find_classes(meta, config(type="CityscapesDataset"), 2)
    assert found["classes"] == ["class 0", "class 1"]
    assert len({tuple(colour) for colour in found["palette"]}) == 2


def test_random_weights_are_always_the_same_and_leave_the_random_numbers_alone(
    write_segmentor, tmp_path
):
    cfg = Config.fromfile(write_segmentor(tmp_path, "hq", "a") / "tiny.py")
    state = torch.get_rng_state()
    first, second = (load_model(cfg, None).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_must_fit(write_segmentor, tmp_path):
    place = write_segmentor(tmp_path, "hq", "a")
    cfg = Config.fromfile(place / "tiny.py")
    model = load_model(cfg, str(place / "0.pth"))
    assert not model.training
    assert len(model.dataset_meta["classes"]) == 11
    state = torch.load(place / "0.pth")["state_dict"]
    assert torch.equal(model.state_dict()["decode_head.conv_seg.weight"],
                       state.pop("decode_head.conv_seg.weight"))  # fmt: skip
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="does not fit the model: it lacks 1 of"):
        load_model(cfg, str(tmp_path / "part.pth"))
