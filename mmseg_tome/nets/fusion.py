"""The fusion of SegFormer's all-MLP head, shared by segmentation and pose."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmseg_tome import ops
from mmseg_tome.nets.layers import (
    BAND_BYTES,
    Grid,
    fits_bands,
    linear,
    map_to_tokens,
    tokens_to_map,
)


class ConvModule(Protocol):
    """A convolution with its norm and activation, if any: mmcv's of this name, or `ConvNormAct`."""

    conv: nn.Conv2d
    with_norm: bool
    with_activation: bool

    @property
    def norm(self) -> nn.Module: ...

    @property
    def activate(self) -> Callable[[Tensor], Tensor]: ...


class ConvNormAct(nn.Module):
    """A 1x1 convolution, batch norm and ReLU, by the names and initial values of mmcv's.

    Args:
        in_channels: Channels of the incoming map.
        out_channels: Channels of the result.
        linear: Leave out norm and activation, which leaves a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, linear: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=linear)
        self.with_norm = self.with_activation = not linear
        if not linear:
            self.bn = nn.BatchNorm2d(out_channels)
            self.activate = nn.ReLU(inplace=True)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the convolution's weights, as mmcv's does."""
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    @property
    def norm(self) -> nn.Module:
        """The batch norm."""
        return self.bn

    def forward(self, x: Tensor) -> Tensor:
        """`[B, in_channels, H, W] -> [B, out_channels, H, W]`."""
        return apply_pointwise(self, x)


def fuse_levels(
    levels: Sequence[Tensor],
    convs: Sequence[ConvModule],
    fusion_conv: ConvModule,
    predict: Callable[[Tensor], Tensor],
    mode: str = "bilinear",
    align_corners: bool = False,
) -> Tensor:
    """Project every level, bring all to the first one's size, fuse them and predict.

    The definition is `predict(fusion_conv(concatenate([resize(conv(level)) for each level])))`. A
    1x1 convolution commutes with resizing, so each level's slice of the fusion's weight is applied
    at the level's own resolution and the results are resized and summed: the same function
    without the wide concatenation, and with far fewer operations.

    Args:
        levels: Feature maps `[B, C_i, H_i, W_i]`, the finest first; fastest if channels-last.
        convs: Per level, the 1x1 projection to the channels that are fused.
        fusion_conv: 1x1 convolution over the concatenated channels, its norm and activation.
        predict: What becomes of the fused map `[B, channels, h, W_0]`, pixel by pixel.
        mode: Interpolation of the resizing.
        align_corners: As in `torch.nn.functional.interpolate`; unused by `nearest`.

    Returns:
        What `predict` gives for `[B, channels, H_0, W_0]`.
    """
    finest, *coarser = levels
    weight, bias, norm = fold_norm(fusion_conv)
    parts = weight.chunk(len(levels), dim=1)
    # Each level's share of the fusion, at its own resolution.
    begin, *others = (join(conv, part) for conv, part in zip(convs, parts, strict=True))
    shares = [share(level) for level, share in zip(coarser, others, strict=True)]

    activate = fusion_conv.activate if fusion_conv.with_activation else nn.Identity()
    hw = (finest.shape[2], finest.shape[3])
    if (mode, align_corners) != PLAIN:
        align = None if mode in ("nearest", "nearest-exact", "area") else align_corners
        fused = begin(finest, bias)
        for share in shares:
            fused += F.interpolate(share, hw, mode=mode, align_corners=align)
        return predict(activate(norm(fused)))

    step = _rows_of_a_band(finest, shares, weight.shape[0])
    folded = all(isinstance(fold_norm(m)[2], nn.Identity) for m in (fusion_conv, convs[0]))
    if folded and step < hw[0]:
        done = []
        for top in range(0, hw[0], step):
            bottom = min(top + step, hw[0])
            fused = begin(finest[:, :, top:bottom], bias)
            for share in shares:
                # In place: a new map of this size costs more than the addition.
                fused += upsample_rows(share, hw, top, bottom)
            done.append(predict(activate(fused)))
        return torch.cat(done, dim=2)
    if isinstance(norm, nn.Identity) and isinstance(activate, nn.ReLU):
        return predict(ops.add_resized(begin(finest, bias), shares, relu=True))
    return predict(activate(norm(ops.add_resized(begin(finest, bias), shares, relu=False))))


def _rows_of_a_band(finest: Tensor, shares: Sequence[Tensor], channels: int) -> int:
    """Rows of the finest level to fuse at a time: all of them where `fits_bands` does not hold."""
    height, width = finest.shape[2:]
    if not fits_bands(finest):  # asked first: a compiler would restrict sizes by what follows
        return height
    scales = [height // share.shape[2] for share in shares]
    whole = all(
        (share.shape[2] * scale, share.shape[3] * scale) == (height, width)
        for share, scale in zip(shares, scales, strict=True)
    )
    if not whole:
        return height
    row = finest.shape[0] * width * channels * finest.element_size()
    step = max(scales, default=1)
    return max(BAND_BYTES // row // step, 1) * step


PLAIN = ("bilinear", False)
"""Mode and `align_corners` of the resizing that `upsample_rows` can do."""


def upsample_rows(x: Tensor, hw: Grid, top: int, bottom: int) -> Tensor:
    """Rows `top` to `bottom` of `x` resized bilinearly to `hw`, a whole multiple of its size.

    Args:
        x: `[B, C, h, w]` with `hw == (s * h, s * w)`.
        hw: Size of the whole result.
        top: First row that is wanted, a multiple of s.
        bottom: Row after the last one, a multiple of s.

    Returns:
        `[B, C, bottom - top, W]`, exactly the rows that resizing all of `x` gives.
    """
    scale = hw[0] // x.shape[2]
    # A row more on either side: an output row lies between two of the input.
    first, last = max(top // scale - 1, 0), min(bottom // scale + 1, x.shape[2])
    size = ((last - first) * scale, hw[1])
    resized = F.interpolate(x[:, :, first:last], size, mode="bilinear", align_corners=False)
    return resized[:, :, top - first * scale : bottom - first * scale]


def apply_pointwise(module: ConvModule, x: Tensor) -> Tensor:
    """A 1x1 convolution, its norm and activation, `[B, C, H, W] -> [B, C', H, W]` channels-last."""
    weight, bias, norm = fold_norm(module)
    x = norm(pointwise(x, weight, bias))
    return module.activate(x) if module.with_activation else x


def join(project: ConvModule, part: Tensor) -> Callable[..., Tensor]:
    """A level's projection and its part of the fusion, `[C'', C', 1, 1]`, as one function.

    Without a norm or activation in between, as in `SegformerLinearHead`, they are one product.
    """
    weight, own, norm = fold_norm(project)
    if project.with_activation or not isinstance(norm, nn.Identity):

        def two(x: Tensor, bias: Tensor | None = None) -> Tensor:
            return pointwise(apply_pointwise(project, x), part, bias)

        return two
    joined = (part.flatten(1) @ weight.flatten(1))[:, :, None, None]  # [C'', C, 1, 1]
    shift = None if own is None else part.flatten(1) @ own

    def one(x: Tensor, bias: Tensor | None = None) -> Tensor:
        both = shift if bias is None or shift is None else shift + bias
        return pointwise(x, joined, bias if both is None else both)

    return one


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution as the matrix product that it is, `[B, C, H, W] -> [B, C', H, W]`."""
    if ops.use_onnx():  # runtimes fuse convolutions with the sums around them
        return F.conv2d(x, weight.flatten(1)[:, :, None, None], bias)
    hw = (x.shape[2], x.shape[3])
    return tokens_to_map(linear(map_to_tokens(x), weight.flatten(1), bias), hw)


def fold_norm(module: ConvModule) -> tuple[Tensor, Tensor | None, nn.Module]:
    """A module's weight and bias, with its batch norm folded in where its statistics are fixed.

    Returns:
        Weight, bias, and the norm that remains to be applied (the identity once folded).
    """
    weight, bias = module.conv.weight, module.conv.bias
    if not module.with_norm:
        return weight, bias, nn.Identity()
    norm = module.norm
    if not isinstance(norm, _BatchNorm) or norm.training:
        return weight, bias, norm
    if norm.running_mean is None or norm.running_var is None:
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
