"""A figure's first four pictures: the image, its two predictions, and what differs."""

from collections.abc import Sequence

import numpy as np

from mmseg_tome.predict.inputs import Item
from mmseg_tome.predict.results import Prediction
from mmseg_tome.visualization.capture import Pass
from mmseg_tome.visualization.differences import BEFORE, MARK, mark_changes, mark_shifts
from mmseg_tome.visualization.figure import Panel
from mmseg_tome.visualization.person_view import person_view
from mmseg_tome.visualization.resizing import fit

LISTED = 27
"""How many classes a legend lists."""

PREDICTION = "prediction, of the same weights"


class SegmentationComparison:
    """Compares label maps.

    Args:
        item: The image.
        plain: Its prediction without merging.
        merged: Its prediction with merging.
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

    Args:
        item: The image.
        plain: Its prediction without merging, of at least one person.
        merged: Its prediction with merging.
        passes: Forward passes of the merged prediction, as many for each person.
        padding: What the network's view is larger by than the box.
        threshold: Keypoints below this score are left out.

    Attributes:
        passes: Those to be drawn: the person's.
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


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])
