"""The sum of feature maps of several resolutions, as SegFormer's head needs it."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor


def add_resized(x: Tensor, maps: Iterable[Tensor], relu: bool) -> Tensor:
    """Add maps, resized bilinearly (`align_corners=False`) to the size of `x`, to it.

    Args:
        x: `[B, C, H, W]`, channels-last.
        maps: `[B, C, h_i, w_i]` each, channels-last.
        relu: Whether negative sums become 0.

    Returns:
        `[B, C, H, W]`, channels-last.
    """
    for other in maps:
        x = x + F.interpolate(other, x.shape[2:], mode="bilinear", align_corners=False)
    return F.relu(x) if relu else x
