"""The test data of a config, also where it is several data sets joined into one.

`ConcatDataset` (mmengine), `CombinedDataset` (MMPose), `RepeatDataset` and `MultiImageMixDataset`
hold data sets in `dataset` or `datasets`, and some have a pipeline that goes on where those of
their data sets end.
"""

from collections.abc import Callable, Iterator

from mmengine.config import Config, ConfigDict

from mmseg_tome.errors import UserError

Pipeline = list[dict]


def base_datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    for each, _ in _with_pipelines(dataset, []):
        yield each


def find_test_pipeline(cfg: Config) -> Pipeline:
    """How the config's test images are read, whatever wraps their data set.

    Raises:
        UserError: The config has no test data, or no pipeline in it.
    """
    return list(_first(cfg)[1])


def with_one_test_dataset(cfg: Config) -> Config:
    """A copy of `cfg` whose test data set is the first of those that are joined in it.

    For uses that need its pipeline and classes, not all of its images.

    Raises:
        UserError: The config has no test data, or no pipeline in it.
    """
    dataset, pipeline = _first(cfg)
    cfg = Config(cfg.to_dict())
    cfg.test_dataloader.dataset = ConfigDict({**dataset, "pipeline": pipeline})
    return cfg


def change_pipelines(dataset: dict, change: Callable[[Pipeline], Pipeline]) -> dict:
    """A copy of a data set, of which each pipeline is changed that reads images from files."""
    dataset = dict(dataset)
    for key in ("dataset", "datasets"):
        inner = dataset.get(key)
        if isinstance(inner, dict):
            dataset[key] = change_pipelines(inner, change)
        elif inner is not None:
            dataset[key] = [change_pipelines(part, change) for part in inner]
    pipeline = dataset.get("pipeline")
    if pipeline and any("LoadImage" in str(step["type"]) for step in pipeline):
        dataset["pipeline"] = change(list(pipeline))
    return dataset


def _first(cfg: Config) -> tuple[dict, Pipeline]:
    dataset = (cfg.get("test_dataloader") or {}).get("dataset")
    found = next(_with_pipelines(dataset, []), None)
    if found is None:
        raise UserError("the config has no test data: test_dataloader.dataset")
    if not found[1]:
        raise UserError("the config has no pipeline in test_dataloader.dataset")
    return found


def _with_pipelines(dataset: dict | None, after: Pipeline) -> Iterator[tuple[dict, Pipeline]]:
    """Each data set without wrappers, and all that is done with its samples."""
    if not dataset:
        return
    pipeline = [*(dataset.get("pipeline") or ()), *after]
    inner = dataset.get("dataset", dataset.get("datasets"))
    if inner is None:
        yield dataset, pipeline
        return
    for part in [inner] if isinstance(inner, dict) else inner:
        yield from _with_pipelines(part, pipeline)
