"""The objects of a class in a labelled image: by instance ids, or connected regions."""

from __future__ import annotations

import cv2
import numpy as np
from mmengine import fileio

CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9,
    23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Class index in training (train id) by Cityscapes' label id, as in cityscapesScripts."""

PER_CLASS = 1000
"""An instance's pixels hold label id * 1000 + number; below, there is a label id alone."""

TOLERANCE = 0.1
"""Part of the numbered pixels that may be of another class than the label says: redrawn or resized
maps differ along contours, maps of other classes everywhere."""


def count_objects(
    mask: np.ndarray, hit: np.ndarray, instances: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Size of each object of one class, and how much of it was found.

    Args:
        mask: Labelled pixels of the class, bool `[H, W]`.
        hit: Those of them that are predicted as the class, bool `[H, W]`.
        instances: Number of the instance that a pixel belongs to, from 1, and 0 for none, int32
            `[H, W]`. Pixels of no instance are split into 8-connected regions.

    Returns:
        Labelled pixels and correctly predicted pixels of each object, integers `[objects]`.
    """
    loose = mask if instances is None else mask & (instances == 0)
    regions, components = cv2.connectedComponents(loose.view(np.uint8), connectivity=8)
    if instances is not None:  # region 0 is the background
        components = np.where(mask & (instances > 0), instances + (regions - 1), components)
    area = np.bincount(components[mask])
    hits = np.bincount(components[hit], minlength=len(area))
    exists = area > 0
    return area[exists], hits[exists]


def instance_path(seg_map_path: str, suffix: tuple[str, str]) -> str:
    """Name of the file with the instance ids that belong to a label's file.

    Args:
        seg_map_path: The label's file.
        suffix: Part of its name, and what stands there in the other name.

    Raises:
        ValueError: The label's file does not have that part.
    """
    head, found, tail = seg_map_path.rpartition(suffix[0])
    if not found:
        raise ValueError(f"instance_suffix: there is no {suffix[0]!r} in {seg_map_path}")
    return head + suffix[1] + tail


def read_instances(path: str, label: np.ndarray, void: int) -> np.ndarray:
    """Read Cityscapes' instance ids (`*_gtFine_instanceIds.png`).

    Args:
        path: The file, 16 bits a pixel: label id * 1000 + number, or a label id without instance.
        label: The image's label in train ids, `[H, W]`.
        void: What void pixels hold in `label`.

    Returns:
        Number of each pixel's instance within its class, from 1; 0 for none, and where the class is
        not the label's; int32 `[H, W]`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, has another size, or says other classes than the label, beyond
            `TOLERANCE`.
    """
    try:
        data = fileio.get(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist; without instance ids leave instance_suffix out, then "
            "connected regions count as objects"
        ) from None
    ids = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if ids is None or ids.shape != label.shape:
        found = "no image" if ids is None else f"{list(ids.shape)}, the label {list(label.shape)}"
        raise ValueError(f"{path} is {found}")
    train_ids = np.full(np.iinfo(np.uint16).max // PER_CLASS + 1, void, label.dtype)
    train_ids[list(CITYSCAPES_TRAIN_IDS)] = list(CITYSCAPES_TRAIN_IDS.values())
    has_number = (ids >= PER_CLASS) & (label != void)
    same = has_number & (train_ids[ids // PER_CLASS] == label)
    differing, numbered = np.count_nonzero(has_number & ~same), np.count_nonzero(has_number)
    if differing > TOLERANCE * numbered:
        raise ValueError(
            f"{path} says another class than the label at {differing} of {numbered} pixels: "
            "instance_suffix is for labels in Cityscapes' train ids"
        )
    return np.where(same, ids % PER_CLASS + 1, 0).astype(np.int32)
