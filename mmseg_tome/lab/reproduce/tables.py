"""The paper's tables as data: rows, published numbers, and the data sets they need.

Numbers are those of the authors' repository (Kienzle et al., MIPR 2024). It does not say on which
GPU, in which precision and by which version of attention they were measured.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A column of accuracy."""

    label: str  # as the paper calls it
    key: str  # as the mm metrics call it
    scale: float = 1.0  # from their value to percent


@dataclass(frozen=True)
class Published:
    """What the paper reports in one row."""

    accuracy: tuple[float, ...]  # percent, one value for each metric of the table
    speed: float | None = None  # times the speed of the row `none`
    memory: float | None = None  # GB of GPU memory in training


@dataclass(frozen=True)
class DataSource:
    """A data set: where it comes from and what shows that it is whole."""

    get: str  # how to get it; the folder where it goes is the config's data root
    endings: dict[str, tuple[str, ...]]  # of files in each folder, by its key in `data_prefix`
    images: dict[str, int]  # how many each split has; absent where that is not checked


@dataclass(frozen=True)
class Table:
    """One table of the paper."""

    name: str  # on the command line
    title: str
    config: str  # file in `configs/`, with `{row}` for the row
    data: DataSource
    metrics: tuple[Metric, ...]
    trains: bool  # each row; else one unmerged checkpoint is tested in all rows
    rows: dict[str, Published]


_PICTURES = (".jpg", ".jpeg", ".png")

CITYSCAPES = DataSource(
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
    "https://www.cityscapes-dataset.com/downloads/ (after registration); the labelTrainIds are "
    "made by csCreateTrainIdLabelImgs of cityscapesScripts",
    {"img_path": ("_leftImg8bit.png",), "seg_map_path": ("_gtFine_labelTrainIds.png",)},
    {"train": 2975, "val": 500, "test": 500},
)
ADE20K = DataSource(
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    {"img_path": (".jpg",), "seg_map_path": (".png",)},
    {"train": 20210, "val": 2000, "test": 2000},
)
# The images that COCO's annotations name are looked for by the tools themselves: people keep
# subsets of the others.
COCO = DataSource(
    "train2017.zip, val2017.zip and annotations_trainval2017.zip from "
    "https://cocodataset.org/#download",
    {"img": _PICTURES},
    {},
)
JUMP_BROADCAST = DataSource(
    "https://www.uni-augsburg.de/en/fakultaet/fai/informatik/prof/mmc/research/datensatze/ (links "
    "to videos, whose frames are the images, and keypoints), as COCO JSON",
    {"img": _PICTURES},
    {},
)

_MIOU = (Metric("mIoU", "mIoU"),)
_PCK = (
    Metric("PCK@0.1", "PCK@0.1/PCK", scale=100),
    Metric("PCK@0.05", "PCK@0.05/PCK", scale=100),
)

TABLES = {
    table.name: table
    for table in (
        Table(
            "cityscapes-inference",
            "Cityscapes, the unmerged model's weights tested under each preset",
            "segformerpp_{row}_cityscapes.py",
            CITYSCAPES,
            _MIOU,
            trains=False,
            rows={
                "none": Published((82.39,)),
                "hq": Published((82.31,), 1.61),
                "fast": Published((82.04,), 1.94),
                "n2d": Published((81.96,), 1.90),
                "downsample": Published((77.31,), 6.51),
            },
        ),
        Table(
            "cityscapes-training",
            "Cityscapes, trained under each preset",
            "segformerpp_{row}_cityscapes.py",
            CITYSCAPES,
            _MIOU,
            trains=True,
            rows={
                "none": Published((82.39,), None, 48.3),
                "hq": Published((82.19,), 1.40, 34.0),
                "fast": Published((81.77,), 1.55, 30.5),
                "n2d": Published((82.38,), 1.63, 31.1),
                "downsample": Published((79.24,), 2.95, 10.0),
            },
        ),
        Table(
            "ade20k",
            "ADE20K 640x640, trained under each preset",
            "segformerpp_{row}_ade20k.py",
            ADE20K,
            _MIOU,
            trains=True,
            rows={
                "none": Published((49.72,), None, 33.7),
                "hq": Published((49.77,), 1.15, 29.2),
                "fast": Published((49.10,), 1.20, 28.0),
                "n2d": Published((49.35,), 1.26, 27.2),
                "downsample": Published((46.71,), 1.89, 12.4),
            },
        ),
        Table(
            "coco",
            "COCO keypoints 384x288, trained under each preset",
            "segformerpp_{row}_coco.py",
            COCO,
            _PCK,
            trains=True,
            rows={
                "none": Published((95.16, 87.61), None, 13.5),
                "hq": Published((94.97, 87.35), 0.97, 13.1),
                "fast": Published((95.02, 87.37), 0.99, 12.9),
                "n2d": Published((94.98, 87.36), 1.24, 12.3),
            },
        ),
        Table(
            "jbd",
            "Jump-Broadcast 640x480, trained under each preset",
            "segformerpp_{row}_jbd.py",
            JUMP_BROADCAST,
            _PCK,
            trains=True,
            rows={
                "none": Published((95.20, 90.65), None, 40.0),
                "hq": Published((95.18, 90.51), 1.19, 36.0),
                "fast": Published((94.58, 89.87), 1.25, 34.6),
                "n2d": Published((95.17, 90.16), 1.27, 33.4),
            },
        ),
    )
}
