"""Layer norm over the channels of tokens, alone or together with the residual sum before it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.segment import gather_segments_add


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
    """
    if shift is not None:
        x = x + shift
    out = F.layer_norm(x, weight.shape, weight, bias, eps)
    return out.to(dtype or x.dtype)


def add_layer_norm(
    residual: Tensor,
    y: Tensor,
    slot: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
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

    Returns:
        The sum and the normalised sum, `[B, N, C]` each. The sum has the wider of both data types.
    """
    total = residual + y if slot is None else gather_segments_add(y, slot, residual)
    return total, layer_norm(total, weight, bias, eps, dtype)
