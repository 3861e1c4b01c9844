"""SegFormer's efficient self-attention (arXiv 2105.15203, section 3.1) with token merging."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils import skip_init

from mmseg_tome.merging import StageMerging
from mmseg_tome.merging.attention import (
    NO_MERGING,
    Grid,
    MergedAttention,
    PassGrid,
    Slots,
    let_merge,
)
from mmseg_tome.nets.layers import LateBiasConv2d, TokenLinear, linear, tokens_to_map
from mmseg_tome.nets.norms import convolve_and_normalise


class EfficientAttention(MergedAttention, nn.Module):
    """Attention with spatially reduced keys and values, and token merging.

    Args:
        embed_dims: Channels of a token.
        num_heads: Number of attention heads.
        qkv_bias: Whether the input and output projections have a bias.
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout of the output, left to the caller.
        sr_ratio: Spatial reduction of keys and values: kernel size and stride of a convolution.
        norm: Builds the norm after the spatial reduction, given the channels.
        merging: What merges; `reuse` is of a whole stage, see `let_merge`.
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
        merging: StageMerging = NO_MERGING,
    ):
        super().__init__()
        # Holds the projections under the names, and with the initial values, of the stock
        # module; its own forward, which materialises attention matrices, is not used.
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, attn_drop, bias=qkv_bias)
        built = self.attn.out_proj  # its values stay, and no random numbers are drawn for others
        self.attn.out_proj = skip_init(TokenLinear, embed_dims, embed_dims, bias=qkv_bias)
        self.attn.out_proj.weight, self.attn.out_proj.bias = built.weight, built.bias
        self.proj_drop = nn.Dropout(proj_drop)
        self.sr: LateBiasConv2d | None = None
        self.norm: nn.Module | None = None
        if sr_ratio > 1:
            self.sr = LateBiasConv2d(embed_dims, embed_dims, sr_ratio, stride=sr_ratio)
            self.norm = norm(embed_dims)
        let_merge([self], merging)

    def forward(self, x: Tensor, hw: Grid | PassGrid) -> tuple[Tensor, Slots]:
        """Tokens `[B, H * W, C]` to an update `[B, M, C]` and slot maps, see `merge_and_attend`."""
        return self.merge_and_attend(x, hw)

    def reduce(self, x: Tensor, hw: PassGrid) -> tuple[Tensor, PassGrid]:
        if self.sr is None or self.norm is None:
            return x, hw
        x, reduced = convolve_and_normalise(self.sr, self.norm, tokens_to_map(x, tuple(hw)))
        return x, hw.resized(reduced)

    def project_queries(self, x: Tensor) -> Tensor:
        return self._project(x, 0, 1)[0]

    def project_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self._project(x, 1, 3)
        return k, v

    def project_out(self, x: Tensor) -> Tensor:
        return self.attn.out_proj(x)

    def weights_dropout(self) -> float:
        return self.attn.dropout if self.training else 0.0

    def _project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Those of the projections q, k, v (0, 1, 2), `[B, N, C]` -> `[B, heads, N, C / heads]`."""
        channels, heads = self.attn.embed_dim, self.attn.num_heads
        rows = slice(first * channels, last * channels)
        bias = self.attn.in_proj_bias
        x = linear(x, self.attn.in_proj_weight[rows], None if bias is None else bias[rows])
        x = x.unflatten(2, (last - first, heads, -1))  # [B, N, last - first, heads, C / heads]
        return tuple(x.permute(2, 0, 3, 1, 4))
