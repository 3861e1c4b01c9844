"""The labels of an image twice as wide as high from three windows, as Cityscapes is tested."""

from __future__ import annotations

import torch

from mmseg_tome import ops
from mmseg_tome.ops import labelling

from .problem import Case, Problem, floor_us

CLASSES = 19
SCALE = 4
"""Pixels of an image over those of a head's logits, along each side."""


class Labels(Problem):
    """Logits of a case's tokens in each window."""

    _not_unique = ("label_map", "label_map_resized")

    def __init__(self, case: Case, dtype: torch.dtype, device: str):
        self.dtype = dtype
        full = SCALE * case.side
        self.windows = ops.Windows((full, 2 * full), (full, full), (full, -(-full * 3 // 4)))
        self.size = (full * 3 // 2, full * 3)
        number = len(self.windows.boxes()) * case.batch
        logits = torch.randn(number, case.side, case.side, CLASSES, device=device).to(dtype)
        self.logits = logits.permute(0, 3, 1, 2)  # channels-last, as heads make it

    def label_map(self):
        return ops.label_map(self.logits, self.windows)

    def label_map_resized(self):
        return ops.label_map(self.logits, self.windows, size=self.size)

    def _floors(self) -> dict[str, float]:
        images = self.logits.shape[0] // len(self.windows.boxes())
        pixels, resized = (h * w for h, w in (self.windows.hw, self.size))
        return {
            "label_map": floor_us(self.logits.nbytes + 8 * images * pixels),
            "label_map_resized": floor_us(self.logits.nbytes + 8 * images * resized),
        }

    def _judge(self, results: dict[str, tuple]) -> list[str]:
        """The interpolated logit of the class that was chosen, against the largest one."""
        wrong = []
        for name, (labels,) in results.items():
            for image, label in enumerate(labels):
                logits = self.logits[image :: len(labels)].double()
                total = logits.new_zeros(1, CLASSES, *self.windows.hw)
                labelling.add_windows(total, logits, self.windows)
                labelling.average_windows(total, self.windows)
                full = torch.nn.functional.interpolate(total, label.shape, mode="bilinear")[0]
                loss = full.amax(0) - full.gather(0, label[None])[0]
                error = (loss / full.abs().amax(0)).max().item()
                if not error <= 1e-5:
                    wrong.append(f"{name}: a logit off by {error:.1e} in image {image}")
        return wrong
