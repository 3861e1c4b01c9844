"""A figure's first four pictures: the image, its two predictions, and what differs."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from mmengine.config import Config

from mmseg_tome.config_datasets import find_test_pipeline
from mmseg_tome.predict.inputs import Item
from mmseg_tome.predict.results import Prediction
from mmseg_tome.visualization.capture import Pass
from mmseg_tome.visualization.figure import Panel
from mmseg_tome.visualization.painting import BEFORE, MARK, fit, mark_changes, mark_shifts

LISTED = 27
"""How many classes a legend lists."""

PADDING = 1.25  # mmpose's default in GetBBoxCenterScale
PREDICTION = "prediction, of the same weights"


class SegmentationComparison:
    """Compares the label maps of one image without and with merging.

    Args:
        passes: Forward passes of the merged prediction.
        classes: Names of the classes.
        palette: Their colours, `[classes, 3]`, RGB.

    Attributes:
        passes: Those to be drawn.
        aspect: Width over height of the pictures.
        summary: What merging changes, in words.
        legend: Names and colours.
    """

    def __init__(
        self,
        item: Item,
        plain: Prediction,
        merged: Prediction,
        passes: Sequence[Pass],
        classes: Sequence[str],
        palette: np.ndarray,
    ):
        self.passes = passes
        self.aspect = item.image.shape[1] / item.image.shape[0]
        self._item, self._plain, self._merged = item, plain, merged
        self._changed = plain.labels != merged.labels
        self._share = f"{100 * self._changed.mean():.2f} %"
        self.summary = f"merging changes the class of {self._share} of the pixels"
        count = np.bincount(plain.labels.ravel(), minlength=len(classes))
        count += np.bincount(merged.labels.ravel(), minlength=len(classes))
        found = np.flatnonzero(count)
        listed = np.sort(found[np.argsort(-count[found], kind="stable")[:LISTED]])
        self.legend = [(classes[i], palette[i].tolist()) for i in listed]
        if len(found) > len(listed):
            self.legend.append((f"(and {len(found) - len(listed)} more)", (255, 255, 255)))

    def panels(self, size: tuple[int, int]) -> list[Panel]:
        """The four pictures at `size`, (height, width)."""
        image = fit(_rgb(self._item.picture), size)
        marked = mark_changes(image, self._changed)
        return [
            Panel(image, "image", "{1}x{0} pixels".format(*self._item.image.shape[:2])),
            Panel(fit(_rgb(self._plain.overlay), size), "without merging", PREDICTION),
            Panel(fit(_rgb(self._merged.overlay), size), "with merging", PREDICTION),
            Panel(marked, f"difference: {self._share}", "marked: pixels whose class changed"),
        ]


class PoseComparison:
    """Compares keypoints, in what the network sees of the person with the largest box.

    Attributes are those of `SegmentationComparison`.

    Args:
        passes: Forward passes of the merged prediction, as many for each person; there is one.
        padding: What the network's view is larger by than the box.
        threshold: Keypoints below this score are left out.
    """

    def __init__(
        self,
        item: Item,
        plain: Prediction,
        merged: Prediction,
        passes: Sequence[Pass],
        padding: float,
        threshold: float,
    ):
        persons = len(merged.result["instances"])
        number = max(
            range(persons), key=lambda i: np.prod(merged.result["instances"][i]["bbox"][2:])
        )
        each = len(passes) // persons  # twice as many where the mirrored image runs as well
        self.passes = passes[number * each : (number + 1) * each]
        rows, cols = self.passes[0].image.shape[2:]
        self.aspect = cols / rows
        self._item, self._plain, self._merged = item, plain, merged
        before, after = (each.result["instances"][number] for each in (plain, merged))
        self._view = person_view(after["bbox"], self.aspect, padding)
        self._before, self._after = (np.array(each["keypoints"]) for each in (before, after))
        scores = [np.array(each["keypoint_scores"]) for each in (before, after)]
        self._shown = np.minimum(*scores) >= threshold  # [K]
        self._who = f"person {number + 1} of {persons}" if persons > 1 else "the person"
        shift = np.linalg.norm(self._before - self._after, axis=1)[self._shown]
        self._shift = f"{shift.mean():.2f} px" if shift.size else "none to see"
        self.summary = f"no keypoint of {self._who} is above the threshold"
        if shift.size:
            count = f"{shift.size} of {len(self._shown)} keypoints"
            self.summary = f"merging shifts {count} of {self._who} by {self._shift} in the mean"
        self.legend = [("keypoint without merging", BEFORE), ("keypoint with merging", MARK)]

    def panels(self, size: tuple[int, int]) -> list[Panel]:
        """The four pictures at `size`, (height, width)."""
        image, plain, merged = (
            self._view.cut(_rgb(picture), size)
            for picture in (self._item.picture, self._plain.overlay, self._merged.overlay)
        )
        before, after = (self._view.place(points, size) for points in (self._before, self._after))
        marked = mark_shifts(image, before, after, self._shown)
        return [
            Panel(image, "image", f"what the network sees of {self._who}"),
            Panel(plain, "without merging", PREDICTION),
            Panel(merged, "with merging", PREDICTION),
            Panel(marked, f"difference: {self._shift}", "mean shift of the keypoints"),
        ]


@dataclass(frozen=True)
class PersonView:
    """A rectangle around a person's box, of the shape of the network's input.

    In pixels of the image, outside of which it may begin.
    """

    left: float
    top: float
    width: float
    height: float

    def cut(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The image inside, `[H, W, 3]` uint8, scaled to `size`, (height, width)."""
        height, width = size
        scale = width / self.width
        # Shrinking before cutting: warpAffine alone leaves pixels out.
        shrunk = min(1.0, scale)
        if shrunk < 1:
            sides = [max(1, round(side * shrunk)) for side in image.shape[1::-1]]
            image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
        zoom = scale / shrunk
        matrix = np.array([[zoom, 0, -self.left * scale], [0, zoom, -self.top * scale]])
        return cv2.warpAffine(image, matrix, (width, height))

    def place(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Points of the image, x and y, `[K, 2]`, as points of what `cut` gives."""
        height, width = size
        return (points - (self.left, self.top)) * (width / self.width, height / self.height)


def person_view(box, aspect: float, padding: float) -> PersonView:
    """What the network sees for a box.

    Args:
        box: x, y, width, height in pixels of the image.
        aspect: Width over height of the network's input.
        padding: What the box is enlarged by, see `box_padding`.
    """
    x, y, width, height = (float(value) for value in box)
    centre = (x + width / 2, y + height / 2)
    width, height = width * padding, height * padding
    width, height = max(width, height * aspect), max(height, width / aspect)
    return PersonView(centre[0] - width / 2, centre[1] - height / 2, width, height)


def box_padding(cfg: Config) -> float:
    """What a config's test pipeline enlarges boxes by."""
    for step in find_test_pipeline(cfg):
        if step["type"] == "GetBBoxCenterScale":
            return step.get("padding", PADDING)
    return PADDING


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])
