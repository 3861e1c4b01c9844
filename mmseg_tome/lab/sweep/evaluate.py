"""Evaluating one setting of a trained network against the same network without merging.

Knows nothing of command lines, files of rows or reports: any tool can use it. ::

    images = Images(cfg, scale=1)
    judge = Judge(Network(cfg, checkpoint, "cuda", "bfloat16"), images, batch=16)
    judge.evaluate(setting)  # {"mIoU": ..., "agreement": ..., ...}
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mmseg_tome.datasets.checks import check_class_count

from .images import Images
from .network import Network
from .scores import ScoreOptions, Scorer
from .settings import NONE, Setting


def scorer_of(images: Images, options: ScoreOptions | None = None) -> Scorer:
    """A scorer of these images' predictions; one serves any number of networks.

    Raises:
        UserError: The options name a class that the data set does not have.
    """
    options = (options or ScoreOptions()).of(images.classes, images.labels[0].shape)
    return Scorer(images.labels, images.classes, options, images.ignore_index)


class Judge:
    """Evaluates settings of one network on one set of images.

    Args:
        network: The trained network.
        images: What it sees.
        batch: Images that run together.
        scorer: Of the images; made with default options if None.

    Raises:
        DataError: The network predicts other classes than the images have.
    """

    def __init__(
        self, network: Network, images: Images, batch: int = 1, scorer: Scorer | None = None
    ) -> None:
        head = getattr(network.model, "decode_head", None)
        if isinstance(getattr(head, "num_classes", None), int):
            check_class_count(head, images.classes, "decode_head", "the data set")
        self.network = network
        self.images = images
        self.batch = batch
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

    def tokens_kept(self, setting: Setting) -> dict[str, float]:
        """Percent of tokens that a setting leaves at the images' size."""
        return self.network.tokens_kept(self.images.hw, setting)

    def _predict(self, setting: Setting) -> list[np.ndarray]:
        return list(self.network.predict(self.images.batches(self.batch), setting))
