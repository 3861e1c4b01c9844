"""The sum of feature maps of several resolutions, as SegFormer's head needs it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.backend import use_triton


def add_resized(x: Tensor, maps: Sequence[Tensor], relu: bool) -> Tensor:
    """Add maps, resized bilinearly (`align_corners=False`) to the size of `x`, to it.

    The kernel is for inference: where gradients are computed, torch does it.

    Args:
        x: `[B, C, H, W]`, channels-last.
        maps: `[B, C, h_i, w_i]` each, channels-last.
        relu: Whether negative sums become 0.

    Returns:
        `[B, C, H, W]`, channels-last.

    Raises:
        ValueError: The maps do not have the batch and channels of `x`.
    """
    for each in (x, *maps):
        if each.ndim != 4 or each.shape[:2] != x.shape[:2]:
            raise ValueError(f"a feature map {tuple(each.shape)} does not fit {tuple(x.shape)}")
    if not torch.is_grad_enabled() and use_triton(x, *maps):
        from mmseg_tome.ops import resizing_triton

        return resizing_triton.add_resized(x, maps, relu)
    for other in maps:
        x = x + F.interpolate(other, x.shape[2:], mode="bilinear", align_corners=False)
    return F.relu(x) if relu else x
