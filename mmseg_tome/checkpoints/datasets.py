"""The data sets that our configs know, recognised by the names of their classes."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmseg_tome.checkpoints.errors import ConversionError


@dataclass(frozen=True)
class KnownDataset:
    """A data set.

    Attributes:
        name: As our configs' file names spell it.
        count: Number of its classes, or of its keypoints.
        first: The first classes; later ones are spelled differently by different code bases.
    """

    name: str
    count: int
    first: tuple[str, ...] = ()


SEGMENTATION = (
    KnownDataset("cityscapes", 19, ("road", "sidewalk", "building", "wall")),
    KnownDataset("ade20k", 150, ("wall", "building", "sky", "floor")),
    KnownDataset("camvid", 11, ("sky", "building", "pole", "road")),
)
POSE = (KnownDataset("coco", 17), KnownDataset("jbd", 20))


def recognise_classes(classes: Sequence[str] | None) -> str | None:
    """Name of the data set that has these classes, or None."""
    for known in SEGMENTATION:
        if classes and len(classes) == known.count:
            first = tuple(name.strip().lower() for name in classes[: len(known.first)])
            if first == known.first:
                return known.name
    return None


def recognise_keypoints(number: int) -> str | None:
    """Name of the data set that has this many keypoints, or None."""
    return next((known.name for known in POSE if known.count == number), None)


def check_count(name: str, number: int) -> None:
    """Raise ConversionError unless the data set `name` has `number` classes or keypoints."""
    for known in SEGMENTATION + POSE:
        if known.name == name and known.count != number:
            raise ConversionError(f"{name} has {known.count} classes, the checkpoint has {number}")
