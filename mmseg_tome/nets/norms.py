"""Norms of tokens, which add a block's pending update before they normalise."""

import torch
from torch import Tensor, nn

from mmseg_tome import ops
from mmseg_tome.merging import SlotMap
from mmseg_tome.nets.layers import Grid, LateBiasConv2d, autocast_dtype, map_to_tokens


class TokenNorm(nn.LayerNorm):
    """Layer norm over the channels of tokens.

    Args:
        channels: Channels of a token.
        eps: Added to the variance.
        feeds_matmul: Under autocast, give the result in autocast's data type at once, as the
            matrix products behind it would take it anyway. Otherwise it is the weight's there.
    """

    def __init__(self, channels: int, eps: float = 1e-5, feeds_matmul: bool = False):
        super().__init__(channels, eps=eps)
        self.feeds_matmul = feeds_matmul

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """`[B, N, C]` in and out; `shift`, `[C]`, is added to every token first."""
        return ops.layer_norm(x, *self.settings(x), shift)

    def settings(self, x: Tensor) -> tuple[Tensor, Tensor, float, torch.dtype | None]:
        """Weight, bias, eps and the result's data type, None for that of `x`."""
        dtype = autocast_dtype(x)
        if dtype is not None and not self.feeds_matmul:
            dtype = self.weight.dtype
        return self.weight, self.bias, self.eps, dtype


class ResidualNorm(TokenNorm):
    """A `TokenNorm` fused with the residual sum before it, and with unmerging."""

    def forward(  # type: ignore[override]
        self, x: Tensor, update: Tensor | None = None, slots: SlotMap | None = None
    ) -> tuple[Tensor, Tensor]:
        """The sum and the normalised sum, see `add_and_normalise`."""
        if update is None:
            return x, super().forward(x)
        if slots is None or slots.is_identity():
            slot, order = None, None
        else:
            slot, order = slots.slot, slots.order
        return ops.add_layer_norm(x, update, slot, *self.settings(x), order)


def as_token_norm(
    norm: nn.Module, kind: type[TokenNorm] = TokenNorm, feeds_matmul: bool = False
) -> nn.Module:
    """A new `nn.LayerNorm` over channels as a `TokenNorm`, same state dict; other norms as is."""
    if type(norm) is not nn.LayerNorm or norm.weight is None or norm.bias is None:
        return norm
    (channels,) = norm.normalized_shape
    token_norm = kind(channels, norm.eps, feeds_matmul)
    for ours, built in zip(token_norm.parameters(), norm.parameters(), strict=True):
        ours.requires_grad_(built.requires_grad)  # it may be frozen
    return token_norm


def add_and_normalise(
    norm: nn.Module, x: Tensor, update: Tensor | None = None, slots: SlotMap | None = None
) -> tuple[Tensor, Tensor]:
    """The tokens with their update, if any, and both normalised, by any kind of norm.

    Args:
        norm: A `ResidualNorm`, or any other norm.
        x: Tokens, `[B, N, C]`.
        update: What to add to them first, `[B, N, C]`, or `[B, M, C]` with a slot map.
        slots: The slot map that the update is unmerged by.
    """
    if isinstance(norm, ResidualNorm):
        return norm(x, update, slots)
    if update is not None:
        x = x + update if slots is None else slots.unmerge_add(update, x)
    return x, norm(x)


def convolve_and_normalise(conv: LateBiasConv2d, norm: nn.Module, x: Tensor) -> tuple[Tensor, Grid]:
    """A convolution over a feature map and the norm of the tokens that it makes.

    Args:
        conv: Its result should be channels-last.
        norm: From `as_token_norm`.
        x: `[B, C_in, H, W]`.

    Returns:
        The normalised tokens, `[B, h * w, C]`, and their grid (h, w).
    """
    # cuDNN adds a bias in a separate pass; the norm's kernel can fuse it.
    late = x.is_cuda and isinstance(norm, TokenNorm) and not torch.is_grad_enabled()
    x = conv(x, with_bias=not late)
    tokens, hw = map_to_tokens(x), (x.shape[2], x.shape[3])
    return norm(tokens, shift=conv.bias) if late else norm(tokens), hw
