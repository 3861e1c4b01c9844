"""MMPose's top-down estimator, with the flip test as one batch."""

import math

import torch
from mmengine.logging import print_log
from mmpose.models.pose_estimators import topdown as stock
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mmseg_tome.registry import MODELS


@MODELS.register_module()
class TopdownPoseEstimator(stock.TopdownPoseEstimator):
    """`mmpose.TopdownPoseEstimator`: the same arguments, weights and, to rounding, results.

    On a GPU the flip test runs images and their mirror images through backbone and neck as one
    batch, twice the size, instead of one after the other, and through a head that knows `Mirrored`
    features too. A batch that is too large for the GPU's memory runs in two passes, and so does any
    as large after it.
    """

    too_many = math.inf
    """Images that did not fit into memory together with their mirror images."""

    def predict(self, inputs: Tensor, data_samples: list) -> list:
        """Images `[B, 3, H, W]` -> their data samples, with `pred_instances`."""
        flip_test = self.test_cfg.get("flip_test", False)
        if flip_test and on_gpu(inputs) and len(inputs) < self.too_many:
            try:
                found = self._predict_both(inputs, data_samples)
            except torch.cuda.OutOfMemoryError:
                self.too_many = len(inputs)
                print_log(
                    f"{len(inputs)} images do not fit into memory together with their mirror "
                    "images: the flip test takes two passes",
                    "current",
                )
            else:
                instances, fields = found if isinstance(found, tuple) else (found, None)
                return self.add_pred_to_datasample(instances, fields, data_samples)
        return super().predict(inputs, data_samples)

    def _predict_both(self, inputs: Tensor, data_samples: list):
        """What the head finds with the mirror images, by one pass."""
        joint = self.extract_feat(torch.cat([inputs, inputs.flip(-1)]))
        return self.head.predict(Mirrored(joint), data_samples, test_cfg=self.test_cfg)


def on_gpu(x: Tensor) -> bool:
    """Whether batches pay: a CPU takes twice the time for twice the images."""
    return x.is_cuda


class Mirrored(list):
    """Features of images and of their mirror images, a list of the two as MMPose's heads take it.

    Args:
        joint: Features of both as one batch, the images first: tensors `[2 * B, ...]`, in lists and
            tuples as the backbone or neck gives them. Kept as `joint`.
    """

    def __init__(self, joint):
        super().__init__(
            tree_map_only(Tensor, lambda x, half=half: x.chunk(2)[half], joint) for half in (0, 1)
        )
        self.joint = joint
