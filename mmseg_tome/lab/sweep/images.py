"""The images and labels of a config's test data, read once and kept in memory."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_tome.config_datasets import base_datasets, change_pipelines
from mmseg_tome.errors import DataError, UserError, first_line


class Samples:
    """What a test pipeline made of images, each with its `inputs`, `[3, H, W]`; kept in memory."""

    def __init__(self, samples: list[dict]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def hw(self) -> tuple[int, int]:
        """Size of the first image as the network sees it."""
        return tuple(self.samples[0]["inputs"].shape[1:])

    def batches(self, size: int) -> Iterator[list[dict]]:
        """The samples in their order, up to `size` neighbours of one size together."""
        for _, same in groupby(self.samples, key=lambda sample: sample["inputs"].shape):
            same = list(same)
            for i in range(0, len(same), size):
                yield same[i : i + size]

    def subset(self, chosen: Sequence[int]) -> Samples:
        """Those of these indices."""
        some = copy.copy(self)
        some.samples = [self.samples[i] for i in chosen]
        return some


class Images(Samples):
    """The test data of a config, at a multiple of the images' own size.

    The pipeline's resizing is replaced: networks of one data set are then compared on equal input,
    whatever size their configs were made for. All images are read at once and kept as bytes.

    Args:
        cfg: Has a `test_dataloader`.
        scale: Size of the network's input over that of the image file; 1 resizes nothing, None
            leaves the resizing to the pipeline.
        limit: Take every n-th image, so that no more than this many are left; None takes all.
        workers: Threads that read.
        skip_broken: Whether images that cannot be read are named and left out.

    Attributes:
        labels: Their labels, `[H, W]` each.
        classes: Names of the classes.

    Raises:
        DataError: The data is not there; the message says how to get it if that is known. Or an
            image of it cannot be read.
    """

    def __init__(
        self,
        cfg: Config,
        scale: float | None = 1,
        limit: int | None = None,
        workers: int = 4,
        skip_broken: bool = False,
    ) -> None:
        dataset = build_dataset(dataset_config(cfg, scale))
        chosen = chosen_images(len(dataset), limit)

        def name(i: int) -> str:
            return dataset.get_data_info(i)["img_path"]

        super().__init__(read_all(dataset.__getitem__, chosen, workers, name, skip_broken))
        self.classes = list(dataset.metainfo["classes"])
        self.ignore_index = first_of(dataset).ignore_index
        self.labels = []
        for sample in self.samples:
            data_sample = sample["data_samples"]
            self.labels.append(label_of(data_sample).numpy().astype(np.uint16))
            del data_sample.gt_sem_seg  # 8 bytes a pixel, which would travel to the device

    def subset(self, chosen: Sequence[int]) -> Images:
        """Those of these indices."""
        some = super().subset(chosen)
        some.labels = [self.labels[i] for i in chosen]
        return some


def dataset_config(cfg: Config, scale: float | None = 1) -> dict:
    """A config's test data set, its images resized by `scale` alone; labels stay as they are.

    With None as the scale, the data set stays as it is.

    Raises:
        DataError: The config has none.
    """
    if not cfg.get("test_dataloader"):
        raise DataError("the config has no test_dataloader: give one with a data set to test on")
    init_default_scope(cfg.get("default_scope") or "mmseg")
    dataset = cfg.test_dataloader.dataset.to_dict()
    if scale is None:
        return dataset

    def resized(pipeline: list[dict]) -> list[dict]:
        load, *steps = (s for s in pipeline if not s["type"].endswith("Resize"))
        resize = dict(type="Resize", scale_factor=float(scale), keep_ratio=True)
        return [load, resize, *steps]

    return change_pipelines(dataset, resized)


def build_dataset(dataset: dict) -> BaseSegDataset:
    """Build what `dataset_config` gives.

    Raises:
        DataError: The data is not there; the message says how to get it if that is known.
    """
    try:
        built = DATASETS.build(dataset)
    except FileNotFoundError as error:
        raise DataError(f"{error} (--data-root names another place)") from None
    if not len(built):
        roots = ", ".join(str(part.get("data_root")) for part in base_datasets(dataset))
        raise DataError(f"no image in {roots} (--data-root names another place)")
    return built


def label_of(data_sample: SegDataSample) -> Tensor:
    """The label of an image, `[H, W]`.

    Raises:
        DataError: There is none.
    """
    if "gt_sem_seg" not in data_sample:
        raise DataError(f"{data_sample.img_path} has no label, which every score needs")
    return data_sample.gt_sem_seg.data[0]


def read_all(
    read: Callable[[int], dict],
    chosen: Sequence[int],
    workers: int,
    name: Callable[[int], object],
    skip: bool,
) -> list[dict]:
    """Read images in threads; what cannot be read is left out and named, or ends it.

    Raises:
        DataError: An image cannot be read, or none can.
    """

    def attempt(i: int) -> dict | DataError:
        try:
            return read(i)
        # mmcv asserts; decoders and transforms have errors of their own for what is damaged.
        except (OSError, ValueError, AssertionError, RuntimeError, UserError, cv2.error) as error:
            return DataError(f"cannot read {name(i)}: {first_line(error)}")

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(attempt, chosen))
    failed = [each for each in found if isinstance(each, DataError)]
    samples = [each for each in found if not isinstance(each, DataError)]
    if failed and not (skip and samples):
        raise failed[0]
    for each in failed:
        print(f"left out: {each}", file=sys.stderr)
    return samples


def first_of(dataset):
    """The data set itself, or the first of those that are joined in it."""
    while hasattr(dataset, "datasets"):
        dataset = dataset.datasets[0]
    return dataset


def chosen_images(number: int, limit: int | None) -> list[int]:
    """Indices of at most `limit` images, evenly spread over all."""
    if limit is None or limit >= number:
        return list(range(number))
    return [i * number // limit for i in range(limit)]
