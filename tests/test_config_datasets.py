"""The pipeline and the data sets of a config's test data, whatever wraps them."""

import pytest
from mmengine.config import Config

from mmseg_tome.config_datasets import (
    base_datasets,
    change_pipelines,
    find_test_pipeline,
    with_one_test_dataset,
)
from mmseg_tome.errors import UserError

LOAD, RESIZE, PACK = (dict(type=name) for name in ("LoadImageFromFile", "Resize", "PackSegInputs"))
ALONE = dict(type="A", data_root="a", pipeline=[LOAD, PACK])
OTHER = dict(type="B", data_root="b", pipeline=[LOAD, RESIZE, PACK])
WRAPPED = {
    "alone": (ALONE, ["A"]),
    "repeated": (dict(type="RepeatDataset", times=2, dataset=ALONE), ["A"]),
    "joined": (dict(type="ConcatDataset", datasets=[ALONE, OTHER]), ["A", "B"]),
    "joined and repeated": (
        dict(
            type="ConcatDataset",
            datasets=[dict(type="RepeatDataset", times=2, dataset=ALONE), OTHER],
        ),
        ["A", "B"],
    ),
    "a pipeline that goes on": (
        dict(type="CombinedDataset", datasets=[dict(ALONE, pipeline=[LOAD])], pipeline=[PACK]),
        ["A"],
    ),
}


def config(dataset) -> Config:
    return Config(dict(test_dataloader=dict(dataset=dataset, batch_size=1)))


@pytest.mark.parametrize("name", WRAPPED)
def test_pipelines_and_data_sets_inside_wrappers(name):
    dataset, types = WRAPPED[name]
    cfg = config(dataset)
    assert find_test_pipeline(cfg) == [LOAD, PACK]
    assert [part["type"] for part in base_datasets(cfg.test_dataloader.dataset)] == types
    one = with_one_test_dataset(cfg)
    assert one.test_dataloader.dataset == ALONE
    assert one.test_dataloader.batch_size == 1
    assert cfg.test_dataloader.dataset == dataset


@pytest.mark.parametrize("name", WRAPPED)
def test_each_pipeline_is_changed_that_reads_images(name):
    dataset, _ = WRAPPED[name]
    cfg = config(change_pipelines(dataset, lambda steps: [*steps, RESIZE]))
    found = find_test_pipeline(cfg)
    assert sorted(step["type"] for step in found).count("Resize") == 1
    for part in base_datasets(cfg.test_dataloader.dataset):
        assert part["pipeline"][-1] == RESIZE
    assert RESIZE not in ALONE["pipeline"]


@pytest.mark.parametrize("content", [{}, dict(test_dataloader=None), dict(test_dataloader={})])
def test_no_test_data(content):
    with pytest.raises(UserError, match="no test data"):
        find_test_pipeline(Config(content))


def test_no_pipeline():
    with pytest.raises(UserError, match="no pipeline"):
        with_one_test_dataset(config(dict(type="ConcatDataset", datasets=[dict(type="A")])))
