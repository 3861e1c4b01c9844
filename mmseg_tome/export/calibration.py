"""Calibration data of INT8: the network's inputs for images that run through a file's config."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmseg_tome.config import is_pose
from mmseg_tome.errors import UserError
from mmseg_tome.export.reader import read_exported
from mmseg_tome.export.runtime import Exported
from mmseg_tome.nets.errors import ModelInputError
from mmseg_tome.predict.inputs import Reader, Source, UnreadableError


def network_inputs(path: Path, pictures: Sequence[Path]) -> list[np.ndarray]:
    """One input of the network a picture, read and prepared as `tools/infer.py --model` does.

    Of sliding windows it is another one with each picture.

    Args:
        path: An exported file.
        pictures: Image files.

    Returns:
        `[C, H, W]` float32 each, normalised.

    Raises:
        UserError: A picture cannot be read, or is not what the config reads; it is named.
    """
    if not pictures:
        return []
    cfg, checkpoint = read_exported(str(path))
    if is_pose(cfg):
        from mmseg_tome.predict.pose import PosePredictor as Predictor
    else:
        from mmseg_tome.predict.segmentation import SegmentationPredictor as Predictor
    predictor, reader = Predictor(cfg, checkpoint, "cpu"), Reader(cfg)
    backbone = predictor.model.backbone
    backbone.network = _Recorder(backbone.network)
    inputs = []
    for number, picture in enumerate(pictures):
        backbone.network.seen.clear()
        try:
            predictor.predict(list(reader.read(Source(picture, picture.stem, False))))
        except (UnreadableError, ModelInputError) as error:
            raise UserError(f"{picture}: {error}") from None
        seen = backbone.network.seen
        inputs.append(seen[number % len(seen)])
    return inputs


class _Recorder:
    """Runs an exported network and keeps what it is given."""

    def __init__(self, network: Exported):
        self.metadata, self._network = network.metadata, network
        self.seen: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen.extend(images.copy())
        return self._network(images)
