"""What the metrics have in common: maps of a data sample as numpy arrays, names, percentages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch


class Maps(NamedTuple):
    """Prediction and label of one image, unsigned integers `[H, W]`.

    In the label, `num_classes` stands for whatever is neither a class nor void.
    """

    pred: np.ndarray  # `void` where the label is void
    label: np.ndarray
    void: int  # the code of void pixels, the largest value of the type


def read_maps(sample: Mapping, num_classes: int, ignore_index: int = 255) -> Maps:
    """Prediction and label of a data sample, in the smallest type that holds them.

    Args:
        sample: What an mmengine evaluator hands to metrics, with `pred_sem_seg` and `gt_sem_seg`,
            both `[1, H, W]`.
        num_classes: Classes of the data set.
        ignore_index: Label of void pixels.

    Raises:
        ValueError: The sample has no label, or one of another size than the prediction.
    """
    image = sample.get("img_path", "an image")
    if "gt_sem_seg" not in sample:
        raise ValueError(f"{image} has no label (gt_sem_seg), which this metric needs")
    pred, label = sample["pred_sem_seg"]["data"], sample["gt_sem_seg"]["data"]
    if pred.shape[-2:] != label.shape[-2:]:
        raise ValueError(
            f"the prediction of {image} has {tuple(pred.shape[-2:])} pixels, its label "
            f"{tuple(label.shape[-2:])}: load annotations after the images were resized"
        )
    pred = pred.reshape(pred.shape[-2:]).long()
    label = label.reshape(label.shape[-2:]).to(pred)
    void = 255 if num_classes < 255 else 65535
    dtype = np.uint8 if void == 255 else np.uint16
    is_void = label == ignore_index
    label = label.where((label >= 0) & (label < num_classes), torch.full_like(label, num_classes))

    def codes(classes: torch.Tensor) -> np.ndarray:
        classes = classes.clamp(max=num_classes).masked_fill(is_void, void)
        narrow = classes.to(torch.uint8 if void == 255 else torch.int32)
        return narrow.cpu().numpy().astype(dtype, copy=False)

    return Maps(codes(pred), codes(label), void)


def class_indices(
    classes: Sequence[str], wanted: Sequence[str] | None, what: str = "`classes`"
) -> list[int]:
    """Indices of the `wanted` classes of a data set; None wants all.

    Raises:
        ValueError: `wanted` is empty or names a class that the data set does not have; begins with
            `what`.
    """
    if wanted is None:
        return list(range(len(classes)))
    unknown = [name for name in wanted if name not in classes]
    if unknown or not wanted:
        problem = f"names {unknown}" if unknown else "is empty"
        raise ValueError(
            f"{what} {problem}; the classes of this data set are: {', '.join(classes)}"
        )
    return [list(classes).index(name) for name in wanted]


def count_values(values: np.ndarray, where: np.ndarray, number: int) -> np.ndarray:
    """How often each of 0 to `number - 1` is among the values in a mask, `[number]`.

    Args:
        values: Unsigned integers or int32 `[H, W]`; others than those counted may occur.
        where: The mask, bool `[H, W]`.
        number: How many values are counted.
    """
    if values.dtype in (np.uint8, np.uint16):  # OpenCV is five times as fast
        mask = where.view(np.uint8)
        return cv2.calcHist([values], [0], mask, [number], [0, number]).ravel().astype(int)
    return np.bincount(values[where], minlength=number)[:number]


def percentages(
    scores: np.ndarray, names: Sequence[str], mean: str, each: str | None
) -> dict[str, float]:
    """Scores of classes as entries of a metric's result, in percent.

    Args:
        scores: Fractions `[num_classes]`; NaN for a class that has none.
        names: Names of the classes.
        mean: Key of the mean over the classes that have a score; no entry if none has.
        each: Key of a class, up to its name; None leaves these entries out.
    """
    known = [i for i, score in enumerate(scores) if not np.isnan(score)]
    if not known:
        return {}
    result = {mean: round(float(scores[known].mean()) * 100, 2)}
    if each is not None:
        result.update({f"{each}.{names[i]}": round(float(scores[i]) * 100, 2) for i in known})
    return result
