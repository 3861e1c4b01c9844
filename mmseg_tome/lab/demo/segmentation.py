"""The demo of segmentation: its numbers and its picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from torch import nn

from mmseg_tome.lab.demo.canvas import CLASSES, VOID
from mmseg_tome.lab.demo.dataset import image_file, label_file, scene_rng
from mmseg_tome.lab.demo.run import SHOWN_STAGES, merged_tokens, slot_maps
from mmseg_tome.lab.demo.scene import render_scene

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

LARGE = 1024  # rows of the second image that is timed: the size of a Cityscapes image
# Cityscapes' colours of the train ids; void is black.
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[: len(CLASSES)] = [
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
]  # fmt: skip


class Segmentation:
    """See `run.Task`."""

    suffix = ""
    rounds = {"small": 30, "large": 7}
    metrics = {"mIoU": "mIoU", "thin": "mIoU.thin"}
    percent = 1
    titles = "IoU %", "ms per image"
    notes = (
        "thin: mean over pole, traffic light, traffic sign, person, rider, motorcycle, bicycle",
    )

    def __init__(self, height: int = 256, num_train: int = 120, num_val: int = 20) -> None:
        self.scenes = num_train, num_val, height
        self.sizes = {"small": (height, 2 * height), "large": (LARGE, 2 * LARGE)}

    @staticmethod
    def test_options(folder: Path) -> tuple:
        return "--out", folder / "pred"

    def inputs(self, model: nn.Module, scenes: Path, seed: int) -> dict[str, torch.Tensor]:
        number = self.richest_scene(scenes)
        large = render_scene(scene_rng(seed, "val", number), self.sizes["large"][0]).image
        small = cv2.imread(str(image_file(scenes, "val", number)))
        return {"small": preprocess(model, small), "large": preprocess(model, large[..., ::-1])}

    def richest_scene(self, scenes: Path) -> int:
        """Number of the validation scene with the most classes that one can see."""

        def classes(number: int) -> int:
            path = label_file(image_file(scenes, "val", number))
            labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            return (np.bincount(labels.ravel(), minlength=256)[:19] > labels.size // 400).sum()

        return max(range(self.scenes[1]), key=classes)

    def draw(self, models, scenes: Path, work: Path, results: dict, path: Path) -> None:
        """The scene and its labels on top; a row for each variant: prediction, merged tokens."""
        file = image_file(scenes, "val", self.richest_scene(scenes))
        image = cv2.imread(str(file))
        labels = cv2.imread(str(label_file(file)), cv2.IMREAD_GRAYSCALE)
        x = preprocess(next(iter(models.values())), image)
        figure, axes = plt.subplots(
            1 + len(models), 3, figsize=(17, 2.15 + 2.85 * (1 + len(models))), layout="constrained"
        )
        for axis in axes.flat:
            axis.axis("off")
        _show(axes[0, 0], image[..., ::-1], "image")
        _show(axes[0, 1], PALETTE[labels], "labels")
        axes[0, 2].legend(
            handles=[Patch(color=PALETTE[i] / 255, label=name) for i, name in enumerate(CLASSES)]
            + [Patch(color=PALETTE[VOID] / 255, label="(not scored)")],
            loc="center", ncols=3, frameon=False, fontsize=13, handlelength=1.4,
        )  # fmt: skip
        for row, (variant, model) in zip(axes[1:], models.items(), strict=True):
            found = cv2.imread(str(work / variant / "pred" / file.name), cv2.IMREAD_GRAYSCALE)
            metrics, ms = (results["variants"][variant][key] for key in ("metrics", "ms"))
            title = f"{variant}: mIoU {metrics['mIoU']:.1f}, thin {metrics.get('thin', 0):.1f}"
            title += f", {ms['large']:.0f} ms at {self.sizes['large'][0]} rows"
            # Void pixels are not scored, whatever the network says there.
            _show(row[0], PALETTE[np.where(labels == VOID, VOID, found)], title, bold=True)
            slots = slot_maps(model, x)
            for axis, stage in zip(row[1:], SHOWN_STAGES, strict=True):
                _show(axis, *merged_tokens(image[..., ::-1], slots, stage))
        figure.suptitle(
            "One checkpoint, trained without merging, tested under every preset. Right: each group "
            "of merged tokens in its mean colour",
            fontsize=15,
        )
        figure.savefig(path, dpi=100)
        plt.close(figure)


def preprocess(model: nn.Module, image: np.ndarray) -> torch.Tensor:
    """BGR image [H, W, 3] to the normalised input [1, 3, H, W]."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return model.data_preprocessor({"inputs": [pixels]}, False)["inputs"]


def _show(axis, image: np.ndarray, title: str, bold: bool = False) -> None:
    axis.imshow(image, interpolation="antialiased")
    axis.set_title(title, fontsize=13, fontweight="bold" if bold else "normal")
