"""Layer norm over the channels of tokens, alone or together with the residual sum before it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.backend import use_triton
from mmseg_tome.ops.segment import NO_ORDER, SegmentOrder, gather_segments_torch
from mmseg_tome.ops.shapes import check_channels, check_sum, check_tokens


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Normalise each token over its channels.

    Args:
        x: Tokens, `[B, N, C]`.
        weight: `[C]`.
        bias: `[C]`.
        eps: Added to the variance.
        dtype: Data type of the result, that of `x` if None.
        shift: Added to every token first, `[C]`.

    Returns:
        `[B, N, C]`; mean and variance are taken in float32 at least.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_tokens(x)
    check_channels(x, weight=weight, bias=bias, shift=shift)
    if not use_triton(x, weight):
        x = x if shift is None else x + shift
        return F.layer_norm(x, weight.shape, weight, bias, eps).to(dtype or x.dtype)
    from mmseg_tome.ops import normalization_triton

    if shift is not None and torch.is_grad_enabled():  # the kernel gives it no gradient
        x, shift = x + shift, None
    return normalization_triton.layer_norm(x, weight, bias, eps, dtype or x.dtype, shift)[0]


def add_layer_norm(
    residual: Tensor,
    y: Tensor,
    slot: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
    order: SegmentOrder | None = None,
) -> tuple[Tensor, Tensor]:
    """Add an update to the tokens, each token its slot's row, and normalise the sum.

    Args:
        residual: Tokens, `[B, N, C]`.
        y: Their update, `[B, N, C]`, or with a slot map one row a slot, `[B, M, C]`.
        slot: Slot of each token, `[B, N]` or `[1, N]`, int64 in `[0, M)`, or None.
        weight: `[C]`.
        bias: `[C]`.
        eps: Added to the variance.
        dtype: Data type of the normalised sum, that of the sum if None.
        order: `segment_order(slot, M)`, where it is at hand; only the gradient needs it.

    Returns:
        The sum and the normalised sum, `[B, N, C]` each. The sum has the wider of both data types.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_sum(residual, y, slot, order)
    check_channels(residual, weight=weight, bias=bias)
    if not use_triton(residual, y, weight):
        total = residual + (y if slot is None else gather_segments_torch(y, slot))
        return total, layer_norm(total, weight, bias, eps, dtype)
    from mmseg_tome.ops import normalization_triton

    dtype = dtype or torch.promote_types(residual.dtype, y.dtype)
    args = (residual, y, slot, *(order or NO_ORDER), weight, bias, eps, dtype)
    return normalization_triton.add_layer_norm(*args)[:2]
