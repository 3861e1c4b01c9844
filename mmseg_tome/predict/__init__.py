"""Predictions for a user's own images and videos, as `mmseg-tome infer` makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmseg_tome.predict.pose import PosePredictor
    from mmseg_tome.predict.segmentation import SegmentationPredictor


def predictor_of(cfg: Config) -> type[PosePredictor] | type[SegmentationPredictor]:
    """What predicts by a config, by its task.

    Raises:
        UserError: The task's mm package is missing.
    """
    from mmseg_tome import compat
    from mmseg_tome.config import is_pose
    from mmseg_tome.errors import UserError

    package = "mmpose" if is_pose(cfg) else "mmseg"
    if not compat.has(package):
        raise UserError(f"this config needs {package}, which is not installed here")
    if is_pose(cfg):
        from mmseg_tome.predict.pose import PosePredictor

        return PosePredictor
    from mmseg_tome.predict.segmentation import SegmentationPredictor

    return SegmentationPredictor
