"""How far a merging model agrees with itself unmerged: what merging costs, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmseg_tome.errors import UserError
from mmseg_tome.evaluation.maps import percentages
from mmseg_tome.registry import METRICS

ROWS = 64
"""Rows of an image whose softmax is in memory at a time."""


@METRICS.register_module()
class AgreementMetric(BaseMetric):
    """Compare predictions with those of the same model without merging; needs no labels.

    The reference comes from `UnmergedReferenceHook`, which has to be among the `custom_hooks`: it
    runs every batch a second time, by the same weights and without merging. A config says ::

        test_evaluator = [dict(type="mmseg_tome.AgreementMetric")]
        custom_hooks = [..., dict(type="mmseg_tome.UnmergedReferenceHook")]

    Entries, over all pixels of the data set (at the size of the prediction):

    - `agreement.pixels`: pixels that get the same class, in percent;
    - `agreement.mIoU`: mean IoU of the merged prediction with the unmerged one for a label, in
      percent, over the classes that either predicts; `agreement.IoU.<class>` with `per_class`;
    - `agreement.KL`: mean Kullback-Leibler divergence of a pixel's merged class probabilities from
      the unmerged ones, KL(unmerged || merged), in nats; 0 if they are equal.

    With test-time augmentation the first two are of the averaged prediction, while KL is of the
    last augmented view, whose logits are all that mmseg hands on.

    Args:
        per_class: Also give every class's IoU.
        **kwargs: As for mmengine's `BaseMetric`.

    Attributes:
        reference: Gives the unmerged data samples of a data batch; set by the hook.

    Raises:
        mmseg_tome.errors.UserError: The hook is missing (raised with the first batch).
    """

    def __init__(self, per_class: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.per_class = per_class
        self.reference: Callable[[dict], Sequence] | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compare one batch.

        Keeps per image the pixels of each class that both, the unmerged and the merged model
        predict, `[3, num_classes]`, the sum of KL over pixels, and the number of pixels.
        """
        if self.reference is None:
            raise UserError(
                "AgreementMetric has no unmerged reference: add "
                "dict(type='mmseg_tome.UnmergedReferenceHook') to custom_hooks"
            )
        num_classes = len(self._names())
        for merged, unmerged in zip(data_samples, self.reference(data_batch), strict=True):
            classes = merged["pred_sem_seg"]["data"].flatten().long()
            truth = unmerged.pred_sem_seg.data.flatten().long()
            areas = [
                torch.bincount(found, minlength=num_classes)[:num_classes].cpu().numpy()
                for found in (truth[truth == classes], truth, classes)
            ]
            divergence = kl_divergence(unmerged.seg_logits.data, merged["seg_logits"]["data"])
            self.results.append((np.stack(areas), divergence, truth.numel()))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The scores of the data set.

        Args:
            results: Per image what `process` keeps.
        """
        if not results:
            return {}
        areas, divergence, pixels = (sum(column) for column in zip(*results, strict=True))
        same, truth, classes = areas
        with np.errstate(invalid="ignore"):  # 0 / 0 is a class that neither predicts
            iou = same / (truth + classes - same)
        each = "agreement.IoU" if self.per_class else None
        return {
            "agreement.pixels": round(float(same.sum()) / pixels * 100, 2),
            **percentages(iou, self._names(), "agreement.mIoU", each),
            "agreement.KL": round(divergence / pixels, 6),
        }

    def _names(self) -> list[str]:
        """Names of what can be predicted: with a single class, it or anything else."""
        classes = list(self.dataset_meta["classes"])
        return classes if len(classes) > 1 else ["background", *classes]


def kl_divergence(logits: Tensor, other: Tensor) -> float:
    """Sum over pixels of KL(softmax(logits) || softmax(other)), in nats.

    Args:
        logits: `[classes, H, W]`; a single class stands for mmseg's binary models, whose "logits"
            are the probabilities of class 1.
        other: The same.
    """
    total = 0.0
    for rows, other_rows in zip(logits.split(ROWS, 1), other.split(ROWS, 1), strict=True):
        log_p, log_q = log_probabilities(rows), log_probabilities(other_rows)
        total += F.kl_div(log_q, log_p, reduction="sum", log_target=True).item()
    return total


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithm of class probabilities, `[classes, H, W] -> [max(classes, 2), H, W]`, float32."""
    logits = logits.float()
    if logits.shape[0] > 1:
        return logits.log_softmax(dim=0)
    tiny = torch.finfo(logits.dtype).eps
    return torch.cat([1 - logits, logits]).clamp(tiny, 1 - tiny).log()
