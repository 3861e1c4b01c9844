"""Merge-aware MixVisionTransformer, the backbone of SegFormer and SegFormer++."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from torch import Tensor, nn

from mmseg_tome.merging import parse_tome_cfg, split_auto
from mmseg_tome.merging.attention import PassGrid, let_merge
from mmseg_tome.nets.attention import EfficientAttention
from mmseg_tome.nets.errors import ImageSizeError
from mmseg_tome.nets.layers import (
    DropPath,
    Grid,
    LateBiasConv2d,
    MixFFN,
    autocast_dtype,
    tokens_to_map,
)
from mmseg_tome.nets.norms import (
    ResidualNorm,
    TokenNorm,
    add_and_normalise,
    as_token_norm,
    convolve_and_normalise,
)

LayerNorm = functools.partial(nn.LayerNorm, eps=1e-6)


class PatchEmbed(nn.Module):
    """Overlapping patch embedding (SegFormer, arXiv 2105.15203, section 3.1).

    Args:
        in_channels: Channels of the incoming map.
        embed_dims: Channels of a token.
        patch_size: Kernel size of the convolution; half of it is the padding.
        stride: Stride of the convolution.
        norm: Normalises the tokens.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int, stride: int, norm: nn.Module
    ):
        super().__init__()
        self.projection = LateBiasConv2d(
            in_channels, embed_dims, patch_size, stride=stride, padding=patch_size // 2
        )
        self.norm = norm

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """`[B, in_channels, H, W]` -> tokens `[B, h * w, embed_dims]` and their grid (h, w)."""
        return convolve_and_normalise(self.projection, self.norm, x)

    def grid(self, hw: Grid) -> Grid:
        """The token grid of a map of `hw`."""
        kernel, stride, pad = (
            self.projection.kernel_size[0],
            self.projection.stride[0],
            int(self.projection.padding[0]),
        )
        height, width = ((size + 2 * pad - kernel) // stride + 1 for size in hw)
        return height, width


class TransformerEncoderLayer(nn.Module):
    """One block: merged attention and MixFFN, each normalised before and with a residual.

    Args:
        attn: Attention over `[B, N, C]`, given the grid, as `EfficientAttention`.
        ffn: Feed-forward network over `[B, N, C]`, given the grid.
        norm1: Norm before the attention.
        norm2: Norm before the feed-forward network.
        drop_path_rate: Probability that a sample skips a branch in training.
        with_cp: Recompute the block in the backward pass to save memory.
    """

    def __init__(
        self,
        attn: EfficientAttention,
        ffn: nn.Module,
        norm1: nn.Module,
        norm2: nn.Module,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
    ):
        super().__init__()
        self.norm1 = norm1
        self.attn = attn
        self.norm2 = norm2
        self.ffn = ffn
        self.drop_path = DropPath(drop_path_rate)
        self.with_cp = with_cp

    def forward(
        self, x: Tensor, hw: Grid | PassGrid, update: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update tokens.

        The last residual sum is deferred to the next norm, which fuses it into its pass over the
        tokens.

        Args:
            x: Tokens, `[B, H * W, C]`.
            hw: Their grid; a `PassGrid` where blocks are to share slot maps.
            update: Pending residual update of the tokens, `[B, H * W, C]`.

        Returns:
            Tokens and their pending residual update, `[B, H * W, C]` each.
        """
        if not (self.with_cp and x.requires_grad):
            return self._forward(x, hw, update)
        # Random numbers are drawn once, here: a CUDA graph cannot redraw the same ones.
        dtype = autocast_dtype(x)
        factors = [self.drop_path.draw(x, dtype) for _ in range(2)]
        args = (x, hw, update, *factors)
        again = self.has_dropout
        return cp.checkpoint(self._forward, *args, use_reentrant=False, preserve_rng_state=again)

    @property
    def has_dropout(self) -> bool:
        """Whether more is random in training than which samples skip a branch."""
        rates = (m.p for m in self.modules() if isinstance(m, nn.Dropout))
        return bool(self.attn.attn.dropout or any(rates))

    def _forward(
        self,
        x: Tensor,
        hw: Grid | PassGrid,
        update: Tensor | None,
        attn_factors: Tensor | None = None,
        ffn_factors: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, normed = add_and_normalise(self.norm1, x, update)
        update, slots = self.attn(normed, hw)  # [B, M, C]
        update, q_slots = self.drop_path(update, attn_factors), slots.q
        proj_drop = self.attn.proj_drop
        if proj_drop.training and proj_drop.p:  # each token drops values of its own
            update, q_slots = proj_drop(q_slots.unmerge(update)), None
        x, normed = add_and_normalise(self.norm2, x, update, q_slots)
        return x, self.drop_path(self.ffn(normed, tuple(hw)), ffn_factors)


class MixVisionTransformer(nn.Module):
    """SegFormer's backbone (arXiv 2105.15203) with token merging (arXiv 2405.14467).

    State-dict keys and initialisation are those of mmseg's backbone of this name, and so are,
    without merging, outputs to rounding. Attention is fused (`scaled_dot_product_attention`) and
    all feature maps, the outputs included, are channels-last.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels per attention head; stage i has `embed_dims * num_heads[i]`.
        num_stages: Number of stages.
        num_layers: Blocks of each stage.
        num_heads: Attention heads of each stage.
        patch_sizes: Kernel size of each stage's patch embedding.
        strides: Stride of each stage's patch embedding.
        sr_ratios: Spatial reduction of each stage's keys and values.
        out_indices: Stages whose output is returned; -1 is the last.
        mlp_ratio: Hidden channels of MixFFN over channels of a token.
        qkv_bias: Whether attention projections have a bias.
        drop_rate: Dropout of attention outputs and in MixFFN.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Drop-path rate of the last block; earlier ones rise linearly to it.
        activation: Builds the activation of a MixFFN.
        norm: Builds a norm of tokens, given their channels.
        with_cp: Recompute blocks in the backward pass to save memory.
        tome_cfg: What merges: None, a preset's name (`hq`, `fast`, `n2d`, ...) or one dict per
            stage, see `mmseg_tome.merging.config`.
        down_sample: Halve the image first, the paper's baseline to merging.

    Attributes:
        auto: Whether `tome_cfg` asks to merge only in the stages where that saves time.
        merging_stages: Whether each stage merges, as `mmseg_tome.runtime.calibration` decided; None
            where it did not: all merge as `tome_cfg` says.

    Raises:
        mmseg_tome.merging.TomeConfigError: `tome_cfg` cannot be read.
        ValueError: Stage settings of different lengths, or an `out_indices` beyond the stages, or
            empty.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 64,
        num_stages: int = 4,
        num_layers: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        activation: Callable[[], nn.Module] = nn.GELU,
        norm: Callable[[int], nn.Module] = LayerNorm,
        with_cp: bool = False,
        tome_cfg: str | Sequence | Mapping | None = None,
        down_sample: bool = False,
    ):
        super().__init__()
        per_stage = dict(
            num_layers=num_layers,
            num_heads=num_heads,
            patch_sizes=patch_sizes,
            strides=strides,
            sr_ratios=sr_ratios,
        )
        for name, values in per_stage.items():
            if len(values) != num_stages:
                raise ValueError(f"{name} has {len(values)} entries for {num_stages} stages")
        out_indices = check_out_indices(out_indices, num_stages, "stages")

        self.embed_dims = embed_dims
        self.num_stages = num_stages
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.patch_sizes = patch_sizes
        self.strides = strides
        self.sr_ratios = sr_ratios
        self.out_indices = out_indices
        self.with_cp = with_cp
        self.down_sample = down_sample

        def block_norm(channels: int, kind: type[TokenNorm] = TokenNorm) -> nn.Module:
            return as_token_norm(norm(channels), kind, feeds_matmul=True)

        def block(i: int, channels: int, drop_path: float) -> nn.Module:
            norm1 = block_norm(channels, ResidualNorm)
            attn = EfficientAttention(
                channels,
                num_heads[i],
                qkv_bias,
                attn_drop_rate,
                drop_rate,
                sr_ratios[i],
                block_norm,
            )
            norm2 = block_norm(channels, ResidualNorm)
            ffn = MixFFN(channels, mlp_ratio * channels, activation(), drop_rate)
            return TransformerEncoderLayer(attn, ffn, norm1, norm2, drop_path, with_cp)

        drop_path_rates = iter(torch.linspace(0, drop_path_rate, sum(num_layers)).tolist())
        self.layers: Any = nn.ModuleList()
        for i in range(num_stages):
            channels = embed_dims * num_heads[i]
            embed = PatchEmbed(
                in_channels, channels, patch_sizes[i], strides[i], as_token_norm(norm(channels))
            )
            blocks = [block(i, channels, next(drop_path_rates)) for _ in range(num_layers[i])]
            last = as_token_norm(norm(channels), ResidualNorm)
            stage = [embed, nn.ModuleList(blocks), last]
            self.layers.append(nn.ModuleList(stage))
            in_channels = channels

        self.set_merging(tome_cfg)
        # Depthwise convolutions on channels-last maps are fast only with channels-last weights.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.min_size = self._smallest_image()

    def init_weights(self) -> None:
        """Initialise as mmseg's backbone does, drawing the same numbers for the same seed."""
        # Random numbers fill a tensor in the order of its memory.
        self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for m in self.modules():
            if isinstance(m, nn.Linear):
                truncated_normal_(m.weight, std=0.02)
            elif isinstance(m, nn.LayerNorm):
                if m.weight is not None:
                    nn.init.ones_(m.weight)
            elif isinstance(m, nn.Conv2d):
                fan_out = m.kernel_size[0] * m.kernel_size[1] * m.out_channels // m.groups
                nn.init.normal_(m.weight, std=math.sqrt(2.0 / fan_out))
            else:
                continue
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of the stages in `out_indices`.

        Args:
            x: Images, `[B, in_channels, H, W]`.

        Returns:
            Per stage `[B, C_i, H_i, W_i]`, channels-last; H_i is about H / (4, 8, 16, 32), half
            of it with `down_sample`.

        Raises:
            ImageSizeError: H or W is below `min_size`.
        """
        if min(x.shape[2:]) < self.min_size:
            raise ImageSizeError(
                f"an image of {x.shape[2]}x{x.shape[3]} pixels is too small for the spatial "
                f"reductions {tuple(self.sr_ratios)}: both sides must be at least {self.min_size}"
            )
        if self.down_sample:
            x = F.interpolate(x, scale_factor=0.5)
        outs = []
        for i, (embed, blocks, norm) in enumerate(self.layers):
            x, hw = embed(x)
            x, update = self._run_blocks(i, blocks, x, hw)
            x = tokens_to_map(add_and_normalise(norm, x, update)[1], hw)
            if i in self.out_indices:
                outs.append(x)
        return outs

    def _run_blocks(
        self, i: int, blocks: nn.ModuleList, x: Tensor, hw: Grid
    ) -> tuple[Tensor, Tensor | None]:
        """The blocks of stage i: tokens `[B, H * W, C]` to tokens and their pending update."""
        merges = self.merging_stages is None or self.merging_stages[i]
        hw, update = PassGrid(hw, merges=merges), None
        for block in blocks:
            x, update = block(x, hw, update)
        return x, update

    def set_merging(self, tome_cfg: str | Sequence | Mapping | None) -> None:
        """Merge by another `tome_cfg` from now on; what was decided for `-auto` is forgotten.

        Raises:
            TomeConfigError: `tome_cfg` cannot be read; nothing has changed then.
        """
        merging = parse_tome_cfg(tome_cfg, self.num_stages)
        self.reuse = [stage.reuse for stage in merging]
        self.auto = split_auto(tome_cfg)[1]
        self.merging_stages: list[bool] | None = None
        for i, (attentions, stage) in enumerate(zip(self.attentions(), merging, strict=True)):
            let_merge(attentions, stage, i)

    def attentions(self) -> list[list[EfficientAttention]]:
        """The attention module of each stage's blocks."""
        return [[block.attn for block in blocks] for _, blocks, _ in self.layers]

    def grids(self, hw: Grid) -> list[tuple[Grid, Grid]]:
        """Each stage's token grids, of the queries and of the keys and values, for images `hw`."""
        if self.down_sample:
            hw = (hw[0] // 2, hw[1] // 2)
        grids = []
        for (embed, _, _), sr in zip(self.layers, self.sr_ratios, strict=True):
            hw = embed.grid(hw)
            grids.append((hw, (hw[0] // sr, hw[1] // sr)))
        return grids

    def tokens_kept(self, hw: Grid) -> list[dict[str, tuple[int, int]]]:
        """Tokens after and before merging in each stage's blocks, for images of `hw` pixels.

        Returns:
            Per stage `{"q": (kept, total), "kv": (kept, total)}`.
        """
        kept = []
        for (_, blocks, _), grids in zip(self.layers, self.grids(hw), strict=True):
            mergers = (blocks[0].attn.q_merger, blocks[0].attn.kv_merger)
            kept.append(
                {
                    name: (merger.strategy.num_slots(grid), grid[0] * grid[1])
                    for name, merger, grid in zip(("q", "kv"), mergers, grids, strict=True)
                }
            )
        return kept

    @property
    def recomputes_dropout(self) -> bool:
        """Whether `with_cp` has to draw a block's random numbers a second time."""
        blocks = (block for _, blocks, _ in self.layers for block in blocks)
        return self.with_cp and any(block.has_dropout for block in blocks)

    def _smallest_image(self) -> int:
        """Smallest side, in pixels, whose every stage has at least one reduced token."""
        side = 1
        while any(min(kv) < 1 for _, kv in self.grids((side, side))):
            side += 1
        return side


@torch.no_grad()
def truncated_normal_(weight: Tensor, std: float, bound: float = 2.0) -> None:
    """Fill with normal numbers within +-`bound`, those that mmengine draws for the same seed.

    `nn.init.trunc_normal_` draws others, in versions of torch that no longer invert the
    distribution function.
    """
    mass = math.erf(bound / std / math.sqrt(2))
    weight.uniform_(-mass, mass).erfinv_().mul_(std * math.sqrt(2)).clamp_(-bound, bound)


def check_out_indices(out_indices: Sequence[int], levels: int, what: str) -> tuple[int, ...]:
    """Indices from 0 on; -1 and so on count from the end, as Python's do.

    Args:
        out_indices: Which of a backbone's maps are its output.
        levels: How many there are.
        what: What is counted, in the plural.

    Raises:
        ValueError: There is none, or one that the backbone does not have.
    """
    if not out_indices or not all(-levels <= i < levels for i in out_indices):
        raise ValueError(
            f"out_indices {tuple(out_indices)} must name one or more of the {levels} {what}, 0 to "
            f"{levels - 1}"
        )
    return tuple(i % levels for i in out_indices)
