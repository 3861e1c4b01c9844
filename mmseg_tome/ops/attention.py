"""Attention with a weight for each key."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tome.ops.backend import current_export, use_triton

HEAD_SIZES = (16, 32, 64, 128)
"""Channels of a head that there is a kernel for."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention, `softmax(q k^T / sqrt(D) + bias) v`.

    The kernel is for inference in half precision, with a bias: torch's are as good without one.

    Args:
        q: Queries, `[B, heads, N, D]`.
        k: Keys, `[B, heads, M, D]`.
        v: Values, `[B, heads, M, D]`.
        bias: Added to all logits of a key, `[B or 1, 1, 1, M]`, in their data type.
        dropout: Probability that an attention weight is dropped.

    Returns:
        `[B, heads, N, D]`.

    Raises:
        ValueError: The shapes do not fit.
    """
    fits = q.ndim == 4 and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[-1]
    if not fits or k.shape != v.shape:
        raise ValueError(
            f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} do not "
            "fit together: [B, heads, N or M, D] are expected"
        )
    if bias is not None and (
        bias.ndim != 4
        or bias.shape[0] not in (1, k.shape[0])
        or bias.shape[1:] != (1, 1, k.shape[2])
    ):
        raise ValueError(f"a bias {tuple(bias.shape)} is not of {k.shape[2]} keys")
    if (
        bias is not None
        and bias.dtype == q.dtype == k.dtype == v.dtype
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[3] in HEAD_SIZES
        and not (dropout or torch.is_grad_enabled())
        and use_triton(q, k, v)
    ):
        from mmseg_tome.ops import attention_triton

        return attention_triton.attend(q, k, v, bias)
    export = current_export()
    if export is not None and export.scores:
        if not export.executorch:
            return attend_onnx(q, k, v, bias, export.scores)
        heads = q.shape[:2]
        if bias is not None:
            bias = bias.expand(*heads, -1, -1).flatten(0, 1)
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # [B * heads, N or M, D]
        limit = export.scores * heads[0]
        return attend_onnx(q, k, v, bias, limit).unflatten(0, heads)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def attend_onnx(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, limit: int) -> Tensor:
    """`attend` for as many queries at a time as have scores of `limit` bytes a sample.

    Instead of batch and heads there may be one dimension, that of a single sample's heads.

    ONNX Runtime fuses no attention of plain operators: all scores of a 1024x1024 image's first
    stage are 256 MiB, written and read three times. The sum over keys is not split, so the result
    is that of attention, not an approximation.
    """
    k = (k * q.shape[-1] ** -0.5).transpose(-2, -1)
    step = max(1, limit // (q.shape[-3] * k.shape[-1] * q.element_size()))
    parts = q.split(step, dim=-2) if step < q.shape[-2] else [q]
    scores = (part @ k if bias is None else part @ k + bias for part in parts)
    parts = [s.softmax(dim=-1) @ v for s in scores]
    return torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]
