"""The fusion of SegFormer's all-MLP head, shared by segmentation and pose."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmseg_tome.models.layers import map_to_tokens, tokens_to_map


def fuse_levels(
    levels: Sequence[Tensor],
    convs: Sequence[ConvModule],
    fusion_conv: ConvModule,
    mode: str = "bilinear",
    align_corners: bool = False,
) -> Tensor:
    """Project every level, bring all to the first one's size and fuse them.

    The definition is `fusion_conv(concatenate([resize(conv(level)) for each level]))`. A 1x1
    convolution commutes with resizing, so each level's slice of the fusion's weight is applied
    at the level's own resolution and the results are resized and summed: the same function
    without the wide concatenation, and with far fewer operations.

    Args:
        levels: Feature maps `[B, C_i, H_i, W_i]`, the finest first; fastest if channels-last.
        convs: Per level, the 1x1 projection to the channels that are fused.
        fusion_conv: 1x1 convolution over the concatenated channels, its norm and activation.
        mode: Interpolation of the resizing.
        align_corners: As in `torch.nn.functional.interpolate`; unused by `nearest`.

    Returns:
        `[B, channels, H_0, W_0]`, channels-last.
    """
    weight, bias, norm = fold_norm(fusion_conv)
    align = None if mode in ("nearest", "nearest-exact", "area") else align_corners
    fused = None
    for level, project, part in zip(levels, convs, weight.chunk(len(levels), dim=1), strict=True):
        x = apply_pointwise(project, level)
        if fused is None:  # the finest level is not resized and takes the bias
            fused = pointwise(x, part, bias)
        else:
            x = pointwise(x, part)
            # In place: a new map of this size costs more than the addition.
            fused += F.interpolate(x, fused.shape[2:], mode=mode, align_corners=align)
    fused = norm(fused)
    return fusion_conv.activate(fused) if fusion_conv.with_activation else fused


def apply_pointwise(module: ConvModule, x: Tensor) -> Tensor:
    """Apply a 1x1 `ConvModule`, `[B, C, H, W] -> [B, C', H, W]`, channels-last."""
    weight, bias, norm = fold_norm(module)
    x = norm(pointwise(x, weight, bias))
    return module.activate(x) if module.with_activation else x


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution as the matrix product that it is, `[B, C, H, W] -> [B, C', H, W]`."""
    rows = map_to_tokens(x).flatten(0, 1)  # [B * H * W, C]; two dimensions for a plain product
    rows = F.linear(rows, weight.flatten(1), bias)
    return tokens_to_map(rows.unflatten(0, (x.shape[0], -1)), x.shape[2:])


def fold_norm(module: ConvModule) -> tuple[Tensor, Tensor | None, nn.Module]:
    """A module's weight and bias, with its batch norm folded in where its statistics are fixed.

    Returns:
        Weight, bias, and the norm that remains to be applied (the identity once folded).
    """
    weight, bias = module.conv.weight, module.conv.bias
    if not module.with_norm:
        return weight, bias, nn.Identity()
    norm = module.norm
    if not isinstance(norm, _BatchNorm) or norm.training or norm.running_mean is None:
        return weight, bias, norm
    scale = torch.rsqrt(norm.running_var + norm.eps)  # [C']
    shift = -norm.running_mean
    if bias is not None:
        shift = shift + bias
    if norm.affine:
        scale = scale * norm.weight
    shift = shift * scale + norm.bias if norm.affine else shift * scale
    folded = weight * scale[:, None, None, None]
    # In half precision statistics may be wider than weights.
    return folded.to(weight.dtype), shift.to(weight.dtype), nn.Identity()
