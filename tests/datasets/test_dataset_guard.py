"""Data that would end a run in the middle, from within a worker, ends it before it starts."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.runner import BaseLoop
from torch import nn

from mmseg_tome.cli.ending import run
from mmseg_tome.datasets.checks import check_dataset
from mmseg_tome.errors import DataError
from mmseg_tome.hooks import DatasetGuardHook


class Files(BaseDataset):
    """A data set of `names`, in a folder."""

    def __init__(self, folder, *names, **kwargs):
        self.names = [str(folder / name) for name in names]
        super().__init__(data_root=str(folder), **kwargs)

    def load_data_list(self):
        return [dict(img_path=name, seg_map_path=name + ".png") for name in self.names]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a.jpg.png", "b.jpg", "b.jpg.png"):
        (tmp_path / name).touch()
    return tmp_path


def runner(dataset, head=None):
    loop = object.__new__(type("Loop", (BaseLoop,), {"run": None}))
    loop.dataloader = SimpleNamespace(dataset=dataset)
    model = nn.Module()
    if head:
        model.head = SimpleNamespace(out_channels=head)
    return SimpleNamespace(
        model=model, _train_loop=dict(type="NotBuilt"), _val_loop=None, _test_loop=loop
    )


def test_complete_data_passes(folder):
    whole = Files(folder, "a.jpg", "b.jpg")
    for dataset in (whole, RepeatDataset(whole, 3), ConcatDataset([whole, whole])):
        DatasetGuardHook().before_run(runner(dataset))


@pytest.mark.parametrize("missing", ["b.jpg", "b.jpg.png"])
def test_a_missing_image_or_label_is_named_inside_wrappers_too(folder, missing):
    (folder / missing).unlink()
    whole = Files(folder, "a.jpg", "b.jpg")
    for dataset in (whole, RepeatDataset(whole, 3), ConcatDataset([whole, whole])):
        with pytest.raises(DataError, match=rf"Files: 1 of the 4 files .*/{missing}$"):
            DatasetGuardHook().before_run(runner(dataset))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"2 of the 2 files .*nowhere/a.jpg"):
        check_dataset(Files(tmp_path / "nowhere", "a.jpg"))


def test_remote_files_are_not_looked_for(tmp_path):
    dataset = Files(tmp_path, "a.jpg", lazy_init=True)
    dataset.names = ["s3://bucket/a.jpg"]
    dataset.full_init()
    check_dataset(dataset)


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"Files: nothing to use in .*: no image"):
        check_dataset(Files(tmp_path, serialize_data=False))


def test_what_numpy_says_of_an_empty_data_set_is_explained(tmp_path, capsys):
    assert run(lambda: Files(tmp_path)) == 2
    assert re.match(r"error: Files: nothing to use in .*: no image\n$", capsys.readouterr().err)
    with pytest.raises(ValueError, match="concatenate"):
        run(lambda: np.concatenate([]))


class TestPose:
    @pytest.fixture
    def coco(self, shared, tmp_path):
        """Build COCO's sample after a change of its annotations."""
        pytest.importorskip("xtcocotools")
        from mmpose.datasets import CocoDataset

        def build(change=lambda content: None, **kwargs):
            source = shared / "data" / "coco_sample"
            content = json.loads((source / "test_coco.json").read_text())
            change(content)
            (tmp_path / "ann.json").write_text(json.dumps(content))
            prefix = dict(img=str(source))
            return CocoDataset(ann_file=str(tmp_path / "ann.json"), data_prefix=prefix, **kwargs)

        return build

    def test_the_sample_passes(self, coco):
        dataset = coco()
        assert len(dataset) == 12  # two of the fourteen persons have no keypoint
        DatasetGuardHook().before_run(runner(dataset, head=17))

    def test_missing_images(self, coco):
        def rename(content):
            content["images"][1]["file_name"] = "gone.jpg"

        with pytest.raises(DataError, match=r"CocoDataset: 1 of the 4 files .*gone.jpg"):
            check_dataset(coco(rename))

    @pytest.mark.parametrize(
        "change",
        [
            dict(iscrowd=1),
            dict(num_keypoints=0),
            dict(bbox=[9000, 9000, 5, 5]),
            dict(bbox=[10, 10, 0, 5]),
        ],
        ids=["crowds", "empty", "outside the image", "flat box"],
    )
    def test_persons_that_cannot_be_used_are_left_out(self, coco, change):
        def one(content):
            content["annotations"][0].update(change)

        def every(content):
            for annotation in content["annotations"]:
                annotation.update(change)

        assert len(coco(one)) == 11
        with pytest.raises(DataError, match=r"nothing to use in .*ann.json: no person"):
            check_dataset(coco(every, serialize_data=False))

    def test_a_head_for_other_keypoints(self, coco):
        with pytest.raises(DataError, match="has 17 keypoints, the model's head predicts 20"):
            DatasetGuardHook().before_run(runner(coco(), head=20))

    def test_an_annotation_with_other_keypoints(self, coco):
        def shorten(content):
            content["annotations"][4]["keypoints"] = [5, 5, 2] * 14

        with pytest.raises(DataError, match=r"annotation 460541 .* has 14 keypoints, not 17"):
            check_dataset(coco(shorten))
