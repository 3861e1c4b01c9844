"""The rows of a sweep: which there are, who does them, and the files that they are kept in.

A row is one checkpoint at one scale under one setting, and one JSON file that is written as a
whole: a sweep that was interrupted goes on, and several processes can share one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmseg_tome.errors import UserError
from mmseg_tome.lab.output import digest, file_digest

from .settings import Setting

FOLDER = "rows"
FORMAT = 1
"""Goes up when scores change their meaning: rows of before are evaluated again."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model, as reports call it, and its checkpoints, which differ in training alone (seeds)."""

    name: str
    cfg: Config
    checkpoints: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Group:
    """What shares a network, images and the predictions without merging."""

    model: TrainedModel
    index: int  # of the checkpoint
    scale: float  # size of the input over that of the image file

    @property
    def checkpoint(self) -> str:
        """File of the weights."""
        return self.model.checkpoints[self.index]

    def file(self, setting: Setting) -> str:
        """A row's file name."""
        return f"{self.model.name}-{self.index}-x{self.scale:g}-{setting.name}.json"

    def __str__(self) -> str:
        return f"{self.model.name}, checkpoint {self.index}, x{self.scale:g}"


def groups(models: Sequence[TrainedModel], scales: Sequence[float]) -> list[Group]:
    """All groups, those of one scale together: they share images."""
    return [
        Group(model, index, scale)
        for scale in scales
        for model in models
        for index in range(len(model.checkpoints))
    ]


def share(settings: Sequence[Setting], position: int, part: int, parts: int) -> list[Setting]:
    """The settings of the group at `position` that part `part` of `parts` (from 0) does.

    Every part has some of each group, so that all take about the same time.
    """
    return [s for i, s in enumerate(settings) if (i + position) % parts == part]


def fingerprint(model: Config, checkpoint: str, setting: Setting, **others) -> str:
    """What a row depends on, as a short text: a row with another one is of something else.

    Args:
        model: The model's config; what merges there does not matter.
        checkpoint: File of the weights, of which the content counts.
        setting: What merges.
        others: Plain values: scale, data type, ...
    """
    plain = model.to_dict()
    merging = ("tome_cfg", "down_sample", "init_cfg", "pretrained")
    plain["backbone"] = {k: v for k, v in plain["backbone"].items() if k not in merging}
    return digest([FORMAT, plain, file_digest(checkpoint), setting.key, others])[:16]


def data_digest(data: Sequence[dict]) -> str:
    """Digest of a data set's file names and sizes; its place does not matter."""
    paths = [Path(each[k]) for each in data for k in ("img_path", "seg_map_path") if each.get(k)]
    return digest([(path.name, path.stat().st_size) for path in paths])[:16]


def read(path: Path) -> dict | None:
    """A row, or None if there is none that can be read."""
    try:
        row = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) and "fingerprint" in row else None


def read_all(out: Path) -> tuple[list[dict], list[dict]]:
    """Every row with scores, and every row with times, below a sweep's folder.

    Raises:
        UserError: There is none.
    """
    times, scores = [], []
    for path in sorted((out / FOLDER).glob("*.json")):
        if (row := read(path)) is not None:
            (times if path.name.endswith(".time.json") else scores).append(row)
    if not scores and not times:
        raise UserError(f"there are no rows in {out / FOLDER}: run the sweep first")
    return scores, times
