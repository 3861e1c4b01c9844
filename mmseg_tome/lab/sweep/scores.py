"""Scores of a trained network under any setting, beside the same network without merging.

    images = Images(cfg, scale=1)
    evaluator = Evaluator(Network(cfg, checkpoint, "cuda", "bfloat16"), images, batch=16)
    evaluator.evaluate(setting)  # {"mIoU": ..., "agreement": ..., ...}

The entries are those of the metrics in `mmseg_tome.evaluation`, which compute them from counts;
what depends on labels alone is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from mmengine.logging import MMLogger

from mmseg_tome.datasets.checks import check_class_count
from mmseg_tome.errors import UserError
from mmseg_tome.evaluation import BoundaryIoUMetric, GroupedIoUMetric, SizeBandIoUMetric
from mmseg_tome.evaluation.boundary_iou import LabelStrips
from mmseg_tome.evaluation.iou import THIN_CLASSES
from mmseg_tome.evaluation.size_band_iou import LabelObjects

from .images import Images
from .network import Network
from .settings import NONE, Setting

THIN = (*THIN_CLASSES, "Pole", "SignSymbol", "Pedestrian", "Bicyclist")
"""Thin and small classes by default: those of Cityscapes and of CamVid."""

COCO_SIDES, COCO_AREA = (32, 96), 640 * 480
"""Sides of squares that part small, medium and large objects in COCO, and its images' area."""


@dataclass(frozen=True)
class ScoreOptions:
    """What is measured besides mIoU.

    Attributes:
        thin: Classes of the group `thin`; None takes those of `THIN` that the data set has.
        bands: Areas in pixels from which an object is medium, and from which it is large. None
            takes COCO's 32^2 and 96^2 in proportion to the image's area, which is that of 640x480
            there: 24^2 and 72^2 at 480x360.
        boundary_ratio: Width of the strips of boundary IoU over the image's diagonal; the default
            is that of its authors for street scenes, 3 pixels at 480x360.
    """

    thin: tuple[str, ...] | None = None
    bands: tuple[int, int] | None = None
    boundary_ratio: float = 0.005

    def of(self, classes: Sequence[str], hw: tuple[int, int]) -> ScoreOptions:
        """These options with what is None filled in for a data set.

        Raises:
            UserError: A class that it does not have.
        """
        thin = self.thin
        if thin is None:
            thin = tuple(name for name in THIN if name in classes)
        if unknown := [name for name in thin if name not in classes]:
            raise UserError(
                f"the data set has no class {unknown[0]!r}; its classes: {', '.join(classes)}"
            )
        area = hw[0] * hw[1] / COCO_AREA
        bands = self.bands or tuple(round(side**2 * area) for side in COCO_SIDES)
        return ScoreOptions(thin, bands, self.boundary_ratio)

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class Scorer:
    """Scores predictions of images with these labels, `[H, W]` each.

    `options` are filled in by `ScoreOptions.of`, `ignore_index` is the label of void pixels.
    """

    def __init__(
        self,
        labels: Sequence[np.ndarray],
        classes: Sequence[str],
        options: ScoreOptions,
        ignore_index: int = 255,
    ) -> None:
        small, large = options.bands
        bands = {"small": (0, small), "medium": (small, large), "large": (large, None)}
        groups = {"thin": options.thin} if options.thin else {}
        self._iou = GroupedIoUMetric(groups=groups, prefix="iou")
        self._sizes = SizeBandIoUMetric(bands, prefix="size")
        self._boundary = BoundaryIoUMetric(options.boundary_ratio, prefix="boundary")
        for metric in (self._iou, self._sizes, self._boundary):
            metric.dataset_meta = {"classes": tuple(classes)}
        self._labels = [
            _Label(label, ignore_index, len(classes), options.boundary_ratio, self._sizes.bands)
            for label in labels
        ]

    def score(
        self, predictions: Sequence[np.ndarray], unmerged: Sequence[np.ndarray] | None = None
    ) -> dict[str, float]:
        """Scores over all images, in percent.

        `mIoU`, `mIoU.thin`, `IoU.<class>`, `mIoU.small`, `recall.small` and so on for each band,
        `boundary_mIoU`, and `agreement` if there are predictions without merging to agree with.
        Predictions are unsigned `[H, W]`, the size of the labels.
        """
        counts = [
            label.count(prediction)
            for label, prediction in zip(self._labels, predictions, strict=True)
        ]
        regions, sizes, boundaries = zip(*counts, strict=True)
        # mmseg prints a table of all classes each time.
        MMLogger.get_instance("sweep", log_level="ERROR")
        scores = {
            **self._iou.compute_metrics(list(regions)),
            **self._sizes.compute_metrics(list(sizes)),
            **self._boundary.compute_metrics(list(boundaries)),
        }
        kept = ("mIoU", "IoU", "recall", "boundary_mIoU")
        scores = {k: float(v) for k, v in scores.items() if k.split(".")[0] in kept}
        if unmerged is not None:
            scores["agreement"] = round(agreement(predictions, unmerged), 2)
        return scores


class Evaluator:
    """Evaluates settings of one network on one set of images, `batch` at a time.

    Raises:
        DataError: The network predicts other classes than the images have.
    """

    def __init__(
        self, network: Network, images: Images, batch: int = 1, scorer: Scorer | None = None
    ) -> None:
        head = getattr(network.model, "decode_head", None)
        if isinstance(getattr(head, "num_classes", None), int):
            check_class_count(head, images.classes, "decode_head", "the data set")
        self.network, self.images, self.batch = network, images, batch
        self.scorer = scorer or scorer_of(images)

    @cached_property
    def unmerged(self) -> list[np.ndarray]:
        """Predictions without merging, computed once."""
        return self._predict(NONE)

    def evaluate(self, setting: Setting) -> dict[str, float]:
        """Scores of a setting, see `Scorer.score`, with its agreement with the unmerged network."""
        unmerged = self.unmerged
        predictions = unmerged if setting.key == NONE.key else self._predict(setting)
        return self.scorer.score(predictions, unmerged)

    def _predict(self, setting: Setting) -> list[np.ndarray]:
        return list(self.network.predict(self.images.batches(self.batch), setting))


def scorer_of(images: Images, options: ScoreOptions | None = None) -> Scorer:
    """A scorer of these images' predictions; one serves any number of networks.

    Raises:
        UserError: The options name a class that the data set does not have.
    """
    options = (options or ScoreOptions()).of(images.classes, images.labels[0].shape)
    return Scorer(images.labels, images.classes, options, images.ignore_index)


def agreement(predictions: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Percent of the pixels that have the same class in both."""
    same = sum(np.count_nonzero(a == b) for a, b in zip(predictions, others, strict=True))
    return 100 * same / sum(map(np.size, others))


class _Label:
    """One label, and what of the counts does not depend on a prediction."""

    def __init__(self, label, ignore_index: int, num_classes: int, ratio: float, bands) -> None:
        void = 255 if num_classes < 255 else 65535
        valid = label != ignore_index
        codes = np.where(valid, np.where(label < num_classes, label, num_classes), void)
        codes = codes.astype(np.uint8 if void == 255 else np.uint16)
        self.over_void = np.where(valid, 0, void).astype(codes.dtype)
        self.objects = LabelObjects(codes, void, bands, num_classes)
        self.strips = LabelStrips(codes, void, num_classes, ratio)

    def count(self, prediction: np.ndarray) -> tuple[tuple, tuple, np.ndarray]:
        """What `GroupedIoUMetric`, `SizeBandIoUMetric`, `BoundaryIoUMetric` keep of an image."""
        pred = prediction | self.over_void
        (intersect, predicted), *sizes = self.objects.count(pred)
        labelled = self.objects.pixels
        regions = (intersect, predicted + labelled - intersect, predicted, labelled)
        regions = tuple(torch.as_tensor(counts, dtype=torch.float64) for counts in regions)
        return regions, tuple(sizes), self.strips.count(pred)
