"""Efficient self-attention with token merging (SegFormer++, arXiv 2405.14467, section 3)."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import skip_init

from mmseg_tome import ops
from mmseg_tome.merging import Identity, MergingStrategy, SlotMap
from mmseg_tome.nets.layers import Grid, LateBiasConv2d, TokenLinear, linear, tokens_to_map
from mmseg_tome.nets.norms import convolve_and_normalise
from mmseg_tome.ops.streams import side_by_side


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
    feed both K and V. The output projection works on merged queries; that every token of the full
    grid reads its slot back is left to the norm that adds the update, see `norms`.

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
        proportional: Whether a merged key counts for as many keys as it stands for.
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
        proportional: bool = False,
    ):
        super().__init__()
        # Holds the projections under the names, and with the initial values, of the stock
        # module; its own forward, which materialises attention matrices, is not used.
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, attn_drop, bias=qkv_bias)
        built = self.attn.out_proj  # its values stay, and no random numbers are drawn for others
        self.attn.out_proj = skip_init(TokenLinear, embed_dims, embed_dims, bias=qkv_bias)
        self.attn.out_proj.weight, self.attn.out_proj.bias = built.weight, built.bias
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = LateBiasConv2d(embed_dims, embed_dims, sr_ratio, stride=sr_ratio)
            self.norm = norm(embed_dims)
        else:
            self.sr = self.norm = None
        self.q_merger = TokenMerger(q_strategy or Identity())
        self.kv_merger = TokenMerger(kv_strategy or Identity())
        self.proportional = proportional

    def forward(self, x: Tensor, hw: Grid, slots: Slots | None = None) -> tuple[Tensor, Slots]:
        """Attend within each sample.

        Args:
            x: Tokens, `[B, H * W, embed_dims]`.
            hw: Their grid.
            slots: The slot maps to merge by; None lets the strategies find them.

        Returns:
            The update of the merged queries, `[B, M, embed_dims]`, which each token is to read by
            the queries' slot map, before `proj_drop`; and the slot maps that were used.
        """
        (q, q_slots), (k, v, kv_slots) = side_by_side(
            lambda: self.queries(x, hw, slots and slots.q),
            lambda: self.keys_values(x, hw, slots and slots.kv),
            x,
        )
        drop = self.attn.dropout if self.training else 0.0
        bias = kv_slots.key_bias(k.dtype) if self.proportional else None
        out = ops.attend(q, k, v, bias, drop)  # [B, heads, M, C / heads]
        return self.attn.out_proj(out.transpose(1, 2).flatten(2)), Slots(q_slots, kv_slots)

    def queries(self, x: Tensor, hw: Grid, slots: SlotMap | None) -> tuple[Tensor, SlotMap]:
        """Merge the tokens and project them, `[B, H * W, C] -> [B, heads, M, C / heads]`."""
        slots = slots or self.q_merger(x, hw)
        (q,) = self._project(slots.merge(x), 0, 1)
        return q, slots

    def keys_values(
        self, x: Tensor, hw: Grid, slots: SlotMap | None
    ) -> tuple[Tensor, Tensor, SlotMap]:
        """Reduce, merge and project the tokens to keys and values, `[B, heads, L, C / heads]`."""
        x, hw = self.reduce(x, hw)
        slots = slots or self.kv_merger(x, hw)
        k, v = self._project(slots.merge(x), 1, 3)
        return k, v, slots

    def reduce(self, x: Tensor, hw: Grid) -> tuple[Tensor, Grid]:
        """Spatially reduce the tokens that keys and values are made from, with their new grid."""
        if self.sr is None:
            return x, hw
        return convolve_and_normalise(self.sr, self.norm, tokens_to_map(x, hw))

    def _project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Those of the projections q, k, v (0, 1, 2), `[B, N, C]` -> `[B, heads, N, C / heads]`."""
        channels, heads = self.attn.embed_dim, self.attn.num_heads
        rows = slice(first * channels, last * channels)
        bias = self.attn.in_proj_bias
        x = linear(x, self.attn.in_proj_weight[rows], None if bias is None else bias[rows])
        x = x.unflatten(2, (last - first, heads, -1))  # [B, N, last - first, heads, C / heads]
        return tuple(x.permute(2, 0, 3, 1, 4))
