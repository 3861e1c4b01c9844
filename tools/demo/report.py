"""The demo's table and its one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from street_canvas import CLASSES, VOID

from mmseg_tome.visualization import draw_slots

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
# What each preset merges, for readers of the picture.
WORDS = {"q": "queries", "kv": "keys/values"}
SHOWN_STAGES = (0, 2)


@dataclass
class Pictures:
    """One scene under every variant.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        labels: train ids, uint8 [H, W].
        predictions: of each variant, uint8 [H, W].
        slots: of each variant, as `mmseg_tome.visualization.capture_slot_maps` gives them.
    """

    image: np.ndarray
    labels: np.ndarray
    predictions: dict[str, np.ndarray]
    slots: dict[str, dict]


def table(results: dict) -> str:
    """All numbers side by side, one row for each variant."""
    small, large = ("x".join(map(str, results["sizes"][key])) for key in ("small", "large"))
    head = ("", "mIoU", "thin", "queries", "keys/values", "pairs", small, large)
    rows = [head, *([variant, *_cells(row)] for variant, row in results["variants"].items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    groups = (
        ("", widths[:1]),
        ("IoU %", widths[1:3]),
        ("tokens kept %", widths[3:6]),
        ("ms per image", widths[6:]),
    )
    title = " | ".join(name.center(sum(w) + 2 * (len(w) - 1)) for name, w in groups)
    lines = [title]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        parts = (cells[:1], cells[1:3], cells[3:6], cells[6:])
        lines.append(" | ".join("  ".join(part) for part in parts))
    lines.insert(2, "-" * len(lines[1]))
    notes = (
        "thin: mean over pole, traffic light, traffic sign, person, rider, motorcycle, bicycle",
        "pairs: query-key pairs that attention compares; all tokens are summed over all blocks",
        f"ms: the network alone, float32, {results['threads']} CPU threads, best of several rounds",
    )
    return "\n".join([*lines, "", *notes])


def _cells(row: dict) -> list[str]:
    metrics, kept, ms = row["metrics"], row["tokens_kept"], row["ms"]
    thin = metrics.get("mIoU.thin", float("nan"))
    numbers = (metrics["mIoU"], thin, *kept.values(), ms["small"], ms["large"])
    return [f"{number:.1f}" for number in numbers]


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
            _show_slots(axis, pictures.image, pictures.slots[variant], stage)
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


def _show_slots(axis, image: np.ndarray, captured: dict, stage: int) -> None:
    """Whichever merges in this stage; where nothing does, what hq and fast would merge."""
    kinds = {kind: captured[stage, 0, kind] for kind in ("q", "kv")}
    merging = [kind for kind, (slots, _) in kinds.items() if slots.num_slots < slots.slot.shape[1]]
    kind = merging[0] if merging else ("kv" if stage < 2 else "q")
    slots, hw = kinds[kind]
    total = slots.slot.shape[1]
    count = f"{total} tokens" + (f" merged to {slots.num_slots}" if merging else ", none merged")
    drawn = draw_slots(image, slots.slot[0].numpy(), hw)
    _show(axis, drawn, f"stage {stage + 1}, {WORDS[kind]}: {count}")
