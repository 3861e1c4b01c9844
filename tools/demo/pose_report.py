"""The pose demo's table and its one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from common import SHOWN_STAGES, layout_table, merged_tokens
from pose_scenes import SKELETON

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

NEAR = 0.05  # of the box: predictions farther from the truth are marked
LEFT, RIGHT, MIDDLE, WRONG = "#00e05a", "#ff9000", "#38b6ff", "#ff1030"


@dataclass
class Person:
    """One person under every variant; all coordinates are pixels of the crop.

    Attributes:
        image: uint8 [H, W, 3] RGB, the network's input.
        truth: x, y of the 17 keypoints, [17, 2].
        labelled: whether a keypoint lies in the picture, bool [17].
        box: the longer side of the person's box.
        predictions: of each variant, [17, 2].
        slots: of each variant, as `common.slot_maps` gives them.
    """

    image: np.ndarray
    truth: np.ndarray
    labelled: np.ndarray
    box: float
    predictions: dict[str, np.ndarray]
    slots: dict[str, dict]


def table(results: dict) -> str:
    """All numbers side by side, one row for each variant."""
    columns = {name: name for name in ("PCK@0.1", "PCK@0.05", "AP")}
    notes = (
        "PCK: keypoints nearer to the truth than 0.1 (0.05) of the longer side of the person's box",
        f"AP: COCO's average precision of keypoints; {results['persons']} persons",
    )
    return layout_table(("accuracy %", columns), "ms per person", results, notes)


def draw(persons: list[Person], results: dict, path: Path) -> None:
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
            _outline(axis, persons[0])
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


def _prediction(axis, person: Person, variant: str) -> None:
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
    for pair in np.array(SKELETON) - 1:
        if labelled[pair].all():
            colour = _colour(*pair)
            for width, shade in ((4.5, "black"), (2.5, colour)):
                axis.plot(*points[pair].T, color=shade, linewidth=width, solid_capstyle="round")
    for k in np.flatnonzero(labelled):
        axis.plot(*points[k], "o", color=_colour(k, k), markeredgecolor="black", markersize=6)


def _outline(axis, person: Person) -> None:
    """The true skeleton as thin white lines, to see where the person is."""
    for pair in np.array(SKELETON) - 1:
        if person.labelled[pair].all():
            axis.plot(*person.truth[pair].T, color="white", linewidth=1.2, alpha=0.8)


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
