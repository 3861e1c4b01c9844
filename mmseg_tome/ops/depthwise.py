"""MixFFN's middle: a 3x3 depthwise convolution over the grid of tokens, then GELU."""

import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.backend import use_triton
from mmseg_tome.ops.shapes import check_channels, check_tokens


def depthwise_gelu(x: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> Tensor:
    """Convolve each channel with its own 3x3 kernel, padded with zeros, and apply the exact GELU.

    Args:
        x: Tokens, `[B, H * W, C]`.
        weight: `[C, 1, 3, 3]`.
        bias: `[C]`.
        hw: The tokens' grid, `(H, W)`.

    Returns:
        `[B, H * W, C]`.

    Raises:
        ValueError: The grid does not have as many tokens as `x`, or other shapes do not fit.
    """
    check_tokens(x)
    if hw[0] * hw[1] != x.shape[1]:
        raise ValueError(f"a grid of {hw[0]}x{hw[1]} tokens does not fit {tuple(x.shape)}")
    check_channels(x, bias=bias)
    if weight.shape != (x.shape[2], 1, 3, 3):
        raise ValueError(f"a weight {tuple(weight.shape)} does not fit {tuple(x.shape)}")
    if use_triton(x, weight):
        from mmseg_tome.ops import depthwise_triton

        return depthwise_triton.depthwise_gelu(x, weight, bias, *hw)
    return depthwise_gelu_torch(x, weight, bias, hw)


def depthwise_gelu_torch(x: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> Tensor:
    """`depthwise_gelu` in torch."""
    grid = x.unflatten(1, hw).permute(0, 3, 1, 2)  # [B, C, H, W], channels-last
    grid = F.gelu(F.conv2d(grid, weight, bias, padding=1, groups=x.shape[2]))
    return grid.permute(0, 2, 3, 1).flatten(1, 2)
