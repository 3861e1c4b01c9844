"""The street demo's table and its one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from common import SHOWN_STAGES, layout_table, merged_tokens
from street_canvas import CLASSES, VOID

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

# Cityscapes' colours of the train ids; void is black.
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[: len(CLASSES)] = [
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
]  # fmt: skip


@dataclass
class Pictures:
    """One scene under every variant.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        labels: train ids, uint8 [H, W].
        predictions: of each variant, uint8 [H, W].
        slots: of each variant, as `common.slot_maps` gives them.
    """

    image: np.ndarray
    labels: np.ndarray
    predictions: dict[str, np.ndarray]
    slots: dict[str, dict]


def table(results: dict) -> str:
    """All numbers side by side, one row for each variant."""
    thin = "thin: mean over pole, traffic light, traffic sign, person, rider, motorcycle, bicycle"
    columns = {"mIoU": "mIoU", "thin": "mIoU.thin"}
    return layout_table(("IoU %", columns), "ms per image", results, [thin])


def draw(pictures: Pictures, results: dict, path: Path) -> None:
    """The scene and its labels on top; a row for each variant: prediction and merged tokens."""
    variants = list(results["variants"])
    figure, axes = plt.subplots(
        1 + len(variants), 3, figsize=(17, 2.15 + 2.85 * (1 + len(variants))), layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    _show(axes[0, 0], pictures.image, "image")
    _show(axes[0, 1], PALETTE[pictures.labels], "labels")
    axes[0, 2].legend(
        handles=[Patch(color=PALETTE[i] / 255, label=name) for i, name in enumerate(CLASSES)]
        + [Patch(color=PALETTE[VOID] / 255, label="(not scored)")],
        loc="center", ncols=3, frameon=False, fontsize=13, handlelength=1.4,
    )  # fmt: skip
    for row, variant in zip(axes[1:], variants, strict=True):
        numbers = results["variants"][variant]
        metrics, ms = numbers["metrics"], numbers["ms"]
        title = f"{variant}: mIoU {metrics['mIoU']:.1f}, thin {metrics.get('mIoU.thin', 0):.1f}"
        title += f", {ms['large']:.0f} ms at {results['sizes']['large'][0]} rows"
        # Void pixels are not scored, whatever the network says there.
        prediction = np.where(pictures.labels == VOID, VOID, pictures.predictions[variant])
        _show(row[0], PALETTE[prediction], title, bold=True)
        for axis, stage in zip(row[1:], SHOWN_STAGES, strict=True):
            _show(axis, *merged_tokens(pictures.image, pictures.slots[variant], stage))
    figure.suptitle(
        "One checkpoint, trained without merging, tested under every preset. Right: each group of "
        "merged tokens in its mean colour",
        fontsize=15,
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _show(axis, image: np.ndarray, title: str, bold: bool = False) -> None:
    axis.imshow(image, interpolation="antialiased")
    axis.set_title(title, fontsize=13, fontweight="bold" if bold else "normal")
