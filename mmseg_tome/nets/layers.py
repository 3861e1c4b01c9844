"""Convolutions over tokens: `[B, N, C]` and the channels-last `[B, C, H, W]` are one memory.

The stock SegFormer copies between `[B, N, C]` and a contiguous `[B, C, H, W]` at every
convolution. Here a feature map is always a channels-last view of its tokens, so no layout is
ever copied. Parameters, names and initialisation are those of the stock modules.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tome import ops
from mmseg_tome.merging.attention import Grid
from mmseg_tome.ops.backend import is_compiling

BAND_BYTES = 4 * 2**20
"""Size of a band of a wide feature map on a CPU: about its cache per core."""


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Data type that autocast computes matrix products of `x` in, None where it is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def fits_bands(x: Tensor) -> bool:
    """Whether wide maps made from `x` are better made in bands of rows: at inference on a CPU.

    The feature map of a high-resolution image makes a round trip to freshly allocated memory at
    every operator; a band of it stays in the cache.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not is_compiling()


def tokens_to_map(x: Tensor, hw: Grid) -> Tensor:
    """View tokens as a channels-last feature map, `[B, H * W, C] -> [B, C, H, W]`."""
    # In this order a batch of one keeps the strides by which torch knows channels-last memory.
    return x.unflatten(1, hw).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """View a channels-last feature map as tokens, `[B, C, H, W] -> [B, H * W, C]`."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer over the channels of tokens, `[B, N, C] -> [B, N, C']`.

    On a CPU torch gives float32 products to MKL, which on AMD's processors reaches half of what
    oneDNN does. That gets 1x1 convolutions, so at inference a large product runs as one.

    Args:
        x: `[B, N, C]`.
        weight: `[C', C]`.
        bias: `[C']`.
    """
    if _as_convolution(x):
        return map_to_tokens(
            F.conv2d(tokens_to_map(x, (x.shape[1], 1)), weight[..., None, None], bias)
        )
    return F.linear(x, weight, bias)


LARGE_INPUT = 20480
"""Elements beyond which torch gives a convolution with a small kernel to oneDNN."""


def _as_convolution(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or is_compiling():
        return False
    if torch.is_grad_enabled() or autocast_dtype(x) is not None:
        return False
    # With one thread torch gives 1x1 convolutions to MKL, too.
    one_dnn = torch.backends.mkldnn.is_available() and torch.get_num_threads() > 1
    return one_dnn and x.numel() > LARGE_INPUT


class TokenLinear(nn.Linear):
    """A linear layer over the channels of tokens, see `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, in_features] -> [B, N, out_features]`."""
        return linear(x, self.weight, self.bias)


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution applied to tokens as the matrix product that it is."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, in_channels] -> [B, N, out_channels]`."""
        return linear(x, self.weight.flatten(1), self.bias)


class LateBiasConv2d(nn.Conv2d):
    """A convolution whose bias can be deferred to the next operation."""

    def forward(self, x: Tensor, with_bias: bool = True) -> Tensor:
        """`[B, in_channels, H, W] -> [B, out_channels, h, w]`."""
        return self._conv_forward(x, self.weight, self.bias if with_bias else None)


class DropPath(nn.Module):
    """Stochastic depth: in training, drop the update of whole samples (arXiv 1603.09382).

    Draws the same numbers as mmcv's, but scales and masks in one pass over the update.

    Args:
        drop_prob: Probability that a sample's update is dropped.

    Raises:
        ValueError: `drop_prob` is not in [0, 1].
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        if not 0 <= drop_prob <= 1:
            raise ValueError(f"drop_prob must be between 0 and 1, got {drop_prob}")
        self.drop_prob = drop_prob

    def draw(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor | None:
        """What updates of tokens like `x` are to be multiplied by, `[B, 1, ...]`; None for one.

        Args:
            x: `[B, ...]`.
            dtype: Data type of the update, if not that of `x`.
        """
        if not (self.training and self.drop_prob):
            return None
        keep = 1 - self.drop_prob
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = keep + torch.rand(shape, dtype=dtype or x.dtype, device=x.device)
        kept = kept.floor_()  # 0 or 1
        # Where nothing is kept there is nothing to scale by: 0 / 0.
        return kept.div_(keep) if keep else kept

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """`[B, ...]` in and out; `factors` are what `draw` gave before, if it was called."""
        factors = self.draw(x) if factors is None else factors
        return x if factors is None else x * factors

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}"


class MixFFN(nn.Module):
    """Feed-forward network with a depthwise convolution inside (SegFormer, section 3.1).

    Args:
        embed_dims: Channels of a token.
        feedforward_channels: Channels of the hidden layer.
        activation: Non-linearity after the depthwise convolution.
        drop_rate: Dropout after the activation and after the output.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        activation: nn.Module,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        drop = nn.Dropout(drop_rate)
        expand = PointwiseConv(embed_dims, feedforward_channels)
        depthwise = nn.Conv2d(
            feedforward_channels,
            feedforward_channels,
            kernel_size=3,
            padding=1,
            groups=feedforward_channels,
        )
        reduce = PointwiseConv(feedforward_channels, embed_dims)
        self.layers: Any = nn.ModuleList([expand, depthwise, activation, drop, reduce, drop])
        self.is_gelu = isinstance(activation, nn.GELU) and activation.approximate == "none"

    def forward(self, x: Tensor, hw: Grid) -> Tensor:
        """`[B, H * W, embed_dims]` in and out."""
        if ops.use_onnx():
            return self.forward_in_convolutions(x, hw)
        if fits_bands(x) and not self.training:
            rows = self._rows_in_cache(x, hw)
            if rows < hw[0]:
                return self.forward_in_bands(x, hw, rows)
        expand, depthwise, activation, drop, reduce, _ = self.layers
        x = expand(x)  # [B, H * W, feedforward_channels]
        if self.is_gelu:
            x = ops.depthwise_gelu(x, depthwise.weight, depthwise.bias, hw)
        else:
            x = map_to_tokens(activation(depthwise(tokens_to_map(x, hw))))
        return drop(reduce(drop(x)))

    def forward_in_convolutions(self, x: Tensor, hw: Grid) -> Tensor:
        """`forward` in NCHW convolutions, between which runtimes keep their blocked layout."""
        expand, depthwise, activation, drop, reduce, _ = self.layers
        x = x.transpose(1, 2).unflatten(2, hw)  # [B, C, H, W]
        x = F.conv2d(x, expand.weight, expand.bias)
        x = drop(activation(depthwise(x)))
        x = F.conv2d(x, reduce.weight, reduce.bias)
        return drop(x).flatten(2).transpose(1, 2)

    def forward_in_bands(self, x: Tensor, hw: Grid, rows: int) -> Tensor:
        """The same function at inference, `rows` rows of the grid at a time, see `fits_bands`."""
        expand, depthwise, activation, _, reduce, _ = self.layers
        height, width = hw
        bands = []
        for sample in x.split(1):
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                # A row more on either side, for the depthwise convolution to look at.
                first, last = max(top - 1, 0), min(bottom + 1, height)
                band = expand(sample[:, first * width : last * width])
                band = map_to_tokens(depthwise(tokens_to_map(band, (last - first, width))))
                band = band[:, (top - first) * width : (bottom - first) * width]
                bands.append(reduce(activation(band)))  # [1, (bottom - top) * W, embed_dims]
        return torch.cat(bands, dim=1).view(x.shape)

    def _rows_in_cache(self, x: Tensor, hw: Grid) -> int:
        """Rows of the grid whose hidden layer has a size of `BAND_BYTES`, at least one."""
        row = hw[1] * self.layers[0].out_channels * x.element_size()
        return max(BAND_BYTES // row, 1)
