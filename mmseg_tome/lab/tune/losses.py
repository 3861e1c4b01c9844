"""What a plan costs on some images: agreement with the unmerged network, or mIoU with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmseg_tome.lab.sweep.evaluate import Judge
from mmseg_tome.lab.sweep.images import Images, Samples
from mmseg_tome.lab.sweep.network import Network
from mmseg_tome.lab.sweep.settings import NONE

from .space import Plan, setting


class AgreementLoss:
    """Percent of the pixels that merging gives another class.

    Args:
        network: The trained network.
        images: What it sees.
        batch: Images that run together.
    """

    unit = "% of pixels that change class"

    def __init__(self, network: Network, images: Samples, batch: int = 1) -> None:
        self.network, self.images, self.batch = network, images, batch
        self.unmerged = list(network.predict(images.batches(batch), NONE))

    def __call__(self, plan: Plan) -> dict[str, float]:
        """`loss`, and `agreement`, which is what is left of 100."""
        found = self.network.predict(self.images.batches(self.batch), setting(plan))
        changed = sum(
            np.count_nonzero(a != b) for a, b in zip(found, self.unmerged, strict=True)
        ) / sum(map(np.size, self.unmerged))
        return dict(loss=100 * changed, agreement=100 * (1 - changed))


class MIoULoss:
    """Points of mIoU that merging loses; below 0 where it gains.

    Args:
        network: The trained network.
        images: What it sees, with labels.
        batch: Images that run together.
    """

    unit = "points of mIoU"

    def __init__(self, network: Network, images: Images, batch: int = 1) -> None:
        self.judge = Judge(network, images, batch)
        self.before = self.judge.evaluate(NONE)["mIoU"]

    def __call__(self, plan: Plan) -> dict[str, float]:
        """`loss`, `agreement` and `mIoU`."""
        scores = self.judge.evaluate(setting(plan))
        loss = self.before - scores["mIoU"]
        return dict(loss=loss, agreement=scores["agreement"], mIoU=scores["mIoU"])


Loss = AgreementLoss | MIoULoss


def loss_on(images: Samples, chosen: Sequence[int], network: Network, batch: int) -> Loss:
    """The loss on some of the images: of mIoU if they have labels."""
    kind = MIoULoss if isinstance(images, Images) else AgreementLoss
    return kind(network, images.subset(chosen), batch)
