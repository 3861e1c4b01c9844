"""The demo of human pose: its numbers and its picture."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

from mmseg_tome.config import read_config_file
from mmseg_tome.lab.demo.figure import SKELETON
from mmseg_tome.lab.demo.run import SHOWN_STAGES, config, merged_tokens, slot_maps
from mmseg_tome.registry import DATASETS

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

NEAR = 0.05  # of the box: predictions farther from the truth are marked
LEFT, RIGHT, MIDDLE, WRONG = "#00e05a", "#ff9000", "#38b6ff", "#ff1030"


class Pose:
    """See `run.Task`."""

    suffix = "_pose"
    # Crops that are timed: the test's own, that of Jump-Broadcast, and a larger one.
    sizes = {"small": (256, 192), "medium": (640, 480), "large": (1024, 768)}
    rounds = {"small": 40, "medium": 20, "large": 10}
    metrics = {"PCK@0.1": "PCK@0.1/PCK", "PCK@0.05": "PCK@0.05/PCK", "AP": "coco/AP"}
    percent = 100
    titles = "accuracy %", "ms per person"
    notes = (
        "PCK: keypoints nearer to the truth than 0.1 (0.05) of the longer side of the person's box",
        "AP: COCO's average precision of keypoints",
    )

    def __init__(self, num_train: int = 180, num_val: int = 30, num_shown: int = 2) -> None:
        self.scenes = num_train, num_val, 512
        self.num_shown = num_shown

    @staticmethod
    def test_options(folder: Path) -> tuple:
        return ()

    def persons(self, scenes: Path, size: tuple[int, int] = (256, 192)) -> BaseDataset:
        """The validation persons, in crops of ``size`` (rows, columns)."""
        data = read_config_file(config(self, "none")).test_dataloader.dataset
        data.data_root = str(scenes)
        affine = next(part for part in data.pipeline if part.type == "TopdownAffine")
        affine.input_size = size[::-1]
        # Its reader prints, and it warns that it finds COCO's keypoints where they are.
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The metainfo config file")
            return DATASETS.build({**data, "_scope_": "mmpose"})

    def shown(self, data: BaseDataset) -> list[int]:
        """Numbers of the persons to show, each of another picture.

        Those with most keypoints to see come first, then those that stretch out most.
        """

        def clearness(number: int) -> tuple:
            raw = data.get_data_info(number)["raw_ann_info"]
            return raw["keypoints"][2::3].count(2), raw["area"]

        of_picture = {}
        for number in sorted(range(len(data)), key=clearness):
            of_picture[data.get_data_info(number)["img_id"]] = number
        return sorted(of_picture.values(), key=clearness, reverse=True)[: self.num_shown]

    def inputs(self, model: nn.Module, scenes: Path, seed: int) -> dict[str, torch.Tensor]:
        person = self.shown(self.persons(scenes))[0]
        return {
            name: preprocess(model, self.persons(scenes, size)[person])
            for name, size in self.sizes.items()
        }

    def draw(self, models, scenes: Path, work: Path, results: dict, path: Path) -> None:
        data = self.persons(scenes)
        draw_persons([show(models, data[n]) for n in self.shown(data)], results, path)


def preprocess(model: nn.Module, sample: dict) -> torch.Tensor:
    """A person of the data set to the normalised input [1, 3, H, W]."""
    return model.data_preprocessor(pseudo_collate([sample]), False)["inputs"]


# ---- the picture ---------------------------------------------------------------------------------


@dataclass
class Shown:
    """One person under every variant; all coordinates are pixels of the crop.

    Attributes:
        image: uint8 [H, W, 3] RGB, the network's input.
        truth: x, y of the 17 keypoints, [17, 2].
        labelled: Whether a keypoint lies in the picture, bool [17].
        box: The longer side of the person's box.
        predictions: Of each variant, [17, 2].
        slots: Of each variant, as `run.slot_maps` gives them.
    """

    image: np.ndarray
    truth: np.ndarray
    labelled: np.ndarray
    box: float
    predictions: dict[str, np.ndarray]
    slots: dict[str, dict]


@torch.inference_mode()
def show(models: dict[str, nn.Module], sample: dict) -> Shown:
    """Predict one person with every model, as in the test."""
    info = sample["data_samples"].metainfo
    truth = sample["data_samples"].gt_instances
    size = np.array(info["input_size"])  # width, height
    scale = size / info["input_scale"]

    def in_crop(xy: np.ndarray) -> np.ndarray:
        return (xy - info["input_center"]) * scale + size / 2

    predictions, slots = {}, {}
    for variant, model in models.items():
        (found,) = model.test_step(pseudo_collate([sample]))
        predictions[variant] = in_crop(found.pred_instances.keypoints[0])
        slots[variant] = slot_maps(model, preprocess(model, sample))
    (box,) = truth.bboxes
    return Shown(
        image=sample["inputs"].numpy()[::-1].transpose(1, 2, 0),
        truth=in_crop(truth.keypoints[0]),
        labelled=truth.keypoints_visible[0] > 0,
        box=float(max(box[2:] - box[:2]) * scale[0]),
        predictions=predictions,
        slots=slots,
    )


def draw_persons(persons: list[Shown], results: dict, path: Path) -> None:
    """A column for each variant: the persons with their skeletons, then the merged tokens."""
    variants = list(results["variants"])
    rows = len(persons) + len(SHOWN_STAGES)
    figure, axes = plt.subplots(
        rows, 1 + len(variants), figsize=(14, 1.1 + 3.8 * rows), layout="constrained"
    )
    figure.get_layout_engine().set(h_pad=0.08)
    for axis in axes.flat:
        axis.axis("off")
    for i, person in enumerate(persons):
        _show(axes[i, 0], person.image, "truth" if i == 0 else "")
        _skeleton(axes[i, 0], person.truth, person.labelled)
        for axis, variant in zip(axes[i, 1:], variants, strict=True):
            _prediction(axis, person, variant)
    for variant, axis in zip(variants, axes[0, 1:], strict=True):
        metrics, ms = (results["variants"][variant][key] for key in ("metrics", "ms"))
        size = "x".join(map(str, results["sizes"]["large"]))
        title = f"{variant}\nPCK@{NEAR} {metrics[f'PCK@{NEAR}']:.1f}, AP {metrics['AP']:.1f}"
        axis.set_title(f"{title}\n{ms['large']:.0f} ms at {size}", fontsize=13, fontweight="bold")
    for row, stage in zip(axes[len(persons) :], SHOWN_STAGES, strict=True):
        for axis, variant in zip(row[1:], variants, strict=True):
            drawn, count = merged_tokens(persons[0].image, persons[0].slots[variant], stage)
            _show(axis, drawn, count.replace(": ", "\n"))
            _bones(axis, persons[0].truth, persons[0].labelled, white=True)
    _legend(axes[len(persons), 0])
    words = "Tokens of the upper person;\nthe white lines are\nthe true skeleton"
    axes[-1, 0].text(0.5, 0.95, words, ha="center", va="top", fontsize=13)
    figure.suptitle(
        "One checkpoint, trained without merging, tested under every preset.\n"
        "Below: each group of merged tokens in its mean colour",
        fontsize=15,
    )
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _show(axis, image: np.ndarray, title: str) -> None:
    height, width = image.shape[:2]
    axis.imshow(image, interpolation="antialiased", extent=(0, width, height, 0))
    axis.set_title(title, fontsize=13)


def _prediction(axis, person: Shown, variant: str) -> None:
    """The skeleton; a ring and a line to the truth where it is off."""
    found = person.predictions[variant]
    distance = np.linalg.norm(found - person.truth, axis=1)
    wrong = person.labelled & (distance > NEAR * person.box)
    _show(axis, person.image, "")
    near = f"{(person.labelled & ~wrong).sum()} of {person.labelled.sum()} near the truth"
    box = dict(boxstyle="round", facecolor="white", edgecolor="none", alpha=0.85)
    axis.text(0.03, 0.025, near, transform=axis.transAxes, fontsize=11, bbox=box)
    _skeleton(axis, found, person.labelled)
    for xy, truth in zip(found[wrong], person.truth[wrong], strict=True):
        axis.plot(*np.stack([xy, truth]).T, color=WRONG, linewidth=2)
        axis.plot(*xy, "o", color="none", markeredgecolor=WRONG, markersize=13, markeredgewidth=2.5)


def _skeleton(axis, points: np.ndarray, labelled: np.ndarray) -> None:
    _bones(axis, points, labelled)
    for k in np.flatnonzero(labelled):
        axis.plot(*points[k], "o", color=_colour(k, k), markeredgecolor="black", markersize=6)


def _bones(axis, points: np.ndarray, labelled: np.ndarray, white: bool = False) -> None:
    for pair in np.array(SKELETON) - 1:
        if labelled[pair].all():
            for width, shade in ((4.5, "black"), (2.5, _colour(*pair))):
                style = dict(color="white", linewidth=1.2, alpha=0.8) if white else \
                    dict(color=shade, linewidth=width, solid_capstyle="round")  # fmt: skip
                axis.plot(*points[pair].T, **style)


def _colour(first: int, second: int) -> str:
    """COCO counts the nose, then left and right in turns."""
    if first == 0 or second == 0 or first % 2 != second % 2:
        return MIDDLE
    return LEFT if first % 2 else RIGHT


def _legend(axis) -> None:
    words = {LEFT: "the person's left", RIGHT: "the person's right", MIDDLE: "between them"}
    handles = [Line2D([], [], color=c, linewidth=4, label=word) for c, word in words.items()]
    handles.append(
        Line2D([], [], marker="o", color=WRONG, markerfacecolor="none", markersize=13,
               markeredgewidth=2.5, linewidth=2,
               label=f"farther from the truth\nthan {NEAR} of the box")
    )  # fmt: skip
    axis.legend(handles=handles, loc="upper center", frameon=False, fontsize=13)
