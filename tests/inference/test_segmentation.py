import pytest
from mmengine.config import Config

from mmseg_tome import compat

if not compat.has("mmseg"):
    pytest.skip("needs mmseg", allow_module_level=True)

from mmseg_tome.inference.segmentation import find_classes

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
