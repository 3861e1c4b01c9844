"""MixFFN's middle: a 3x3 depthwise convolution over the grid of tokens, then GELU."""

import torch.nn.functional as F
from torch import Tensor


def depthwise_gelu(x: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> Tensor:
    """Convolve each channel with its own 3x3 kernel, padded with zeros, and apply the exact GELU.

    Args:
        x: Tokens, `[B, H * W, C]`.
        weight: `[C, 1, 3, 3]`.
        bias: `[C]`.
        hw: The tokens' grid, `(H, W)`.

    Returns:
        `[B, H * W, C]`.
    """
    grid = x.unflatten(1, hw).permute(0, 3, 1, 2)  # [B, C, H, W], channels-last
    grid = F.gelu(F.conv2d(grid, weight, bias, padding=1, groups=x.shape[2]))
    return grid.permute(0, 2, 3, 1).flatten(1, 2)
