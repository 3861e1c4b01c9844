"""Attention with a weight for each key."""

import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.twins import replaceable

HEAD_SIZES = (16, 32, 64, 128)
"""Channels of a head that there is a kernel for."""


@replaceable
def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention, `softmax(q k^T / sqrt(D) + bias) v`.

    Args:
        q: Queries, `[B, heads, N, D]`.
        k: Keys, `[B, heads, M, D]`.
        v: Values, `[B, heads, M, D]`.
        bias: Added to all logits of a key, `[B or 1, 1, 1, M]`, in their data type.
        dropout: Probability that an attention weight is dropped.

    Returns:
        `[B, heads, N, D]`.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
