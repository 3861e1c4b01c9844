"""Collating into batches that torch's loader can pin; on a CPU with a stand-in for pinning."""

import copy
from collections import namedtuple
from operator import attrgetter
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("mmpose")

from mmengine.dataset import pseudo_collate
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import InstanceData, PixelData
from mmpose.structures import MultilevelPixelData, PoseDataSample
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader, Dataset

from mmseg_tome.cli.additions import pin_loader
from mmseg_tome.cli.running import stop_loaders
from mmseg_tome.hooks.data import Batch, pin, pinnable_collate

Pair = namedtuple("Pair", "left right")


def segmentation(number: int) -> dict:
    sample = SegDataSample(metainfo=dict(img_shape=(4, 6), img_path=f"{number}.png"))
    sample.gt_sem_seg = PixelData(data=torch.full((1, 4, 6), number))
    return dict(inputs=torch.full((3, 4, 6), float(number)), data_samples=sample)


def pose(number: int) -> dict:
    sample = PoseDataSample(metainfo=dict(flip_indices=[1, 0], id=number))
    sample.gt_instances = InstanceData(keypoints=torch.rand(1, 2, 2).numpy())
    sample.gt_instance_labels = InstanceData(keypoint_weights=torch.rand(1, 2))
    sample.gt_fields = PixelData(heatmaps=torch.rand(2, 8, 6))
    sample.gt_levels = MultilevelPixelData(heatmaps=[torch.rand(2, 8, 6), torch.rand(2, 4, 3)])
    return dict(inputs=torch.rand(3, 32, 24), data_samples=sample)


class Samples(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return segmentation(index)


@pytest.mark.parametrize("make", [segmentation, pose])
def test_the_batch_is_mmengines(make):
    samples = [make(1), make(2)]
    batch, stock = pinnable_collate(samples), pseudo_collate(samples)
    assert isinstance(batch, Batch)
    assert dict(batch) == stock


def test_what_is_no_dict_stays_as_mmengine_collates_it():
    assert pinnable_collate([(1, "a"), (2, "b")]) == pseudo_collate([(1, "a"), (2, "b")])


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (segmentation, ["gt_sem_seg.data"]),
        (pose, ["gt_instance_labels.keypoint_weights", "gt_fields.heatmaps"]),
    ],
)
def test_every_tensor_is_pinned_and_everything_else_is_kept(make, fields):
    batch = pinnable_collate([make(1), make(2)])
    batch["more"] = Pair((torch.ones(2), "text"), None)
    before = copy.deepcopy(batch)
    pinned = []

    def pin_tensor(tensor):
        pinned.append(tensor.clone())
        return pinned[-1]

    after = pin(batch, pin_tensor)
    assert len(pinned) == 2 + 2 * len(fields) + 1
    assert type(after) is Batch
    assert type(after["more"]) is Pair
    assert after["more"].left[1] == "text"
    reached = [*after["inputs"], after["more"].left[0]]
    expected = [*before["inputs"], before["more"].left[0]]
    for old, new in zip(before["data_samples"], after["data_samples"], strict=True):
        assert type(new) is type(old)
        assert new.metainfo == old.metainfo
        assert set(new.keys()) == set(old.keys())
        reached += [attrgetter(field)(new) for field in fields]
        expected += [attrgetter(field)(old) for field in fields]
    assert {id(tensor) for tensor in reached} == {id(tensor) for tensor in pinned}
    assert all(map(torch.equal, reached, expected))


def test_mmengine_builds_the_loader_and_workers_send_the_batch():
    cfg = dict(
        dataset=Samples(),
        sampler=dict(type="DefaultSampler", shuffle=False),
        batch_size=2,
        num_workers=1,
        collate_fn=dict(type="mmseg_tome.pinnable_collate"),
    )
    first, second = Runner.build_dataloader(cfg, seed=0)
    assert type(first) is Batch
    assert [int(x[0, 0, 0]) for x in first["inputs"] + second["inputs"]] == [0, 1, 2, 3]
    assert type(second["data_samples"][1]) is SegDataSample
    assert second["data_samples"][1].img_path == "3.png"
    assert int(second["data_samples"][1].gt_sem_seg.data.max()) == 3


def test_torchs_loader_asks_the_batch_to_pin_itself(monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory

    if torch.__version__ < (2, 11):
        pytest.skip("torch before 2.11 pins a dict by itself")
    monkeypatch.setattr(Batch, "pin_memory", lambda self: "pinned")
    assert pin_memory(pinnable_collate([segmentation(1)])) == "pinned"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_pins_labels_for_a_gpu(num_workers):
    loader = DataLoader(
        Samples(),
        batch_size=2,
        num_workers=num_workers,
        collate_fn=pinnable_collate,
        pin_memory=True,
    )
    for batch in loader:
        assert all(image.is_pinned() for image in batch["inputs"])
        if torch.__version__ >= (2, 11):
            assert all(sample.gt_sem_seg.data.is_pinned() for sample in batch["data_samples"])


def test_loaders_pin_unless_the_user_said_how():
    ours = dict(type="mmseg_tome.pinnable_collate")
    for given, expected in (
        (dict(), dict(pin_memory=True, collate_fn=ours)),
        (dict(pin_memory=True), dict(pin_memory=True, collate_fn=ours)),
        (dict(pin_memory=False), dict(pin_memory=False)),
        (dict(collate_fn="theirs"), dict(collate_fn="theirs")),
    ):
        pin_loader(given)
        assert given == expected


class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.tensor(index))


def test_loading_processes_end_with_their_run():
    loader = DataLoader(Numbers(), num_workers=2, persistent_workers=True)
    infinite = DataLoader(Numbers(), num_workers=1)
    loops = [BaseLoop.__new__(type("Loop", (BaseLoop,), dict(run=None))) for _ in range(2)]
    loops[0].dataloader, loops[1].dataloader = loader, infinite
    loops[1].dataloader_iterator = SimpleNamespace(_iterator=iter(infinite))
    list(loader)
    processes = [*loader._iterator._workers, *loops[1].dataloader_iterator._iterator._workers]
    assert all(process.is_alive() for process in processes)
    stop_loaders(SimpleNamespace(_train_loop=loops[1], _val_loop=None, _test_loop=loops[0]))
    assert not any(process.is_alive() for process in processes)
