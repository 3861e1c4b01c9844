"""Efficient self-attention with token merging (SegFormer++, arXiv 2405.14467, section 3)."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tome.merging import Identity, MergingStrategy, SlotMap
from mmseg_tome.models.layers import Grid, map_to_tokens, tokens_to_map


class Slots(NamedTuple):
    """The slot maps of one block: of its queries, and of its keys and values."""

    q: SlotMap
    kv: SlotMap


class TokenMerger(nn.Module):
    """A merging strategy as a module, so that a forward hook can see every slot map."""

    def __init__(self, strategy: MergingStrategy):
        super().__init__()
        self.strategy = strategy

    def forward(self, metric: Tensor, hw: Grid) -> SlotMap:
        """Slot map of the tokens `metric`, `[B, H * W, C]`, on the grid `hw`."""
        return self.strategy(metric, hw)

    def extra_repr(self) -> str:
        return repr(self.strategy)


class MergedAttention(nn.Module):
    """Multi-head attention over merged queries and merged, spatially reduced keys and values.

    Queries merge on the stage's grid; keys and values merge after the spatial reduction and
    feed both K and V. The output projection works on merged queries, then every token of the
    full grid reads its slot back.

    Args:
        embed_dims: Channels of a token.
        num_heads: Number of attention heads.
        qkv_bias: Whether the input and output projections have a bias.
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout of the output.
        sr_ratio: Spatial reduction of keys and values: kernel size and stride of a convolution.
        norm: Builds the norm after the spatial reduction, given the channels.
        q_strategy: How queries merge.
        kv_strategy: How keys and values merge.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        sr_ratio: int = 1,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        q_strategy: MergingStrategy | None = None,
        kv_strategy: MergingStrategy | None = None,
    ):
        super().__init__()
        # Holds the projections under the names, and with the initial values, of the stock
        # module; its own forward, which materialises attention matrices, is not used.
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, attn_drop, bias=qkv_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(embed_dims, embed_dims, sr_ratio, stride=sr_ratio)
            self.norm = norm(embed_dims)
        else:
            self.sr = self.norm = None
        self.q_merger = TokenMerger(q_strategy or Identity())
        self.kv_merger = TokenMerger(kv_strategy or Identity())

    def forward(
        self,
        x: Tensor,
        hw: Grid,
        slots: Slots | None = None,
        residual: Tensor | None = None,
        drop_path: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008, it has no state
    ) -> tuple[Tensor, Slots]:
        """Attend within each sample.

        Args:
            x: Tokens, `[B, H * W, embed_dims]`.
            hw: Their grid.
            slots: The slot maps to merge by; None lets the strategies find them.
            residual: What to add the update to, `[B, H * W, embed_dims]`.
            drop_path: Scales the update of whole samples.

        Returns:
            The tokens' update, `[B, H * W, embed_dims]`, added to the residual if there is one,
            and the slot maps that were used.
        """
        kv, kv_hw = self.reduce(x, hw)
        if slots is None:
            slots = Slots(self.q_merger(x, hw), self.kv_merger(kv, kv_hw))
        out = self.attend(slots.q.merge(x), slots.kv.merge(kv))  # [B, M, C]
        # A sample's scale is the same for a slot and its tokens; a token's dropout is not.
        out = drop_path(out)
        if residual is not None and not (self.training and self.proj_drop.p):
            return slots.q.unmerge_add(out, residual), slots
        out = self.proj_drop(slots.q.unmerge(out))
        return out if residual is None else residual + out, slots

    def reduce(self, x: Tensor, hw: Grid) -> tuple[Tensor, Grid]:
        """Spatially reduce the tokens that keys and values are made from, with their new grid."""
        if self.sr is None:
            return x, hw
        x = self.sr(tokens_to_map(x, hw))
        return self.norm(map_to_tokens(x)), (x.shape[2], x.shape[3])

    def attend(self, q: Tensor, kv: Tensor) -> Tensor:
        """Attention with its projections, `[B, M, C]` and `[B, L, C]` -> `[B, M, C]`."""
        attn = self.attn
        channels = attn.embed_dim
        w_q, w_kv = attn.in_proj_weight.split([channels, 2 * channels])
        b_q, b_kv = (None, None)
        if attn.in_proj_bias is not None:
            b_q, b_kv = attn.in_proj_bias.split([channels, 2 * channels])
        q = self._heads(F.linear(q, w_q, b_q))  # [B, heads, M, C / heads]
        k, v = F.linear(kv, w_kv, b_kv).chunk(2, dim=2)
        k, v = self._heads(k), self._heads(v)  # [B, heads, L, C / heads]
        drop = attn.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        return attn.out_proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """`[B, N, C] -> [B, heads, N, C / heads]`."""
        return x.unflatten(2, (self.attn.num_heads, -1)).transpose(1, 2)
