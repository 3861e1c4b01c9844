"""What stock backbones get to merge tokens: their own code runs, with another attention in it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from mmseg_tome.merging import StageMerging, parse_without_auto
from mmseg_tome.merging.attention import Grid, PassGrid, let_merge
from mmseg_tome.models.stock_attention import StockAttention, exchange_attentions
from mmseg_tome.nets.mix_transformer import check_out_indices


class Stage(NamedTuple):
    """One stage of a stock backbone.

    Attributes:
        embed: Its patch embedding, from maps to tokens and their grid.
        attentions: The global attention of each of its blocks that has one.
    """

    embed: nn.Module
    attentions: list[nn.Module]


class MergingBackbone:
    """Token merging for a stock backbone, as `class Ours(MergingBackbone, Stock)`.

    State dict, initialisation and, without merging, outputs are the stock ones, the latter to
    rounding: attention is fused (`scaled_dot_product_attention`).

    Args:
        *args: The stock backbone's.
        tome_cfg: What merges: None, a preset's name (`hq`, `fast`, `n2d`, ...) or one dict per
            stage, see `mmseg_tome.merging.config`.
        **kwargs: The stock backbone's.

    Raises:
        TomeConfigError: `tome_cfg` cannot be read.
        ValueError: `out_indices` are empty or beyond what there is.
    """

    attention: type[StockAttention]
    """What its attention modules become."""

    auto = False
    """It cannot choose by time where to merge, as `MixVisionTransformer` can."""

    def __init__(self, *args, tome_cfg: str | Sequence | Mapping | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        # The stock ones give nothing for a -1 in a list.
        self.out_indices = check_out_indices(self.out_indices, *self.levels())
        merging = self.read_tome_cfg(tome_cfg)
        for i, (stage, how) in enumerate(zip(self.stages(), merging, strict=True)):
            stage.embed.register_forward_hook(begin_pass)
            exchange_attentions(stage.attentions, self.attention, how, i)

    def set_merging(self, tome_cfg: str | Sequence | Mapping | None) -> None:
        """Merge by another `tome_cfg` from now on.

        Raises:
            TomeConfigError: `tome_cfg` cannot be read; nothing has changed then.
        """
        for i, (attentions, how) in enumerate(
            zip(self.attentions(), self.read_tome_cfg(tome_cfg), strict=True)
        ):
            let_merge(attentions, how, i)

    def stages(self) -> list[Stage]:
        """Where the stock backbone keeps what a stage is made of."""
        raise NotImplementedError

    def levels(self) -> tuple[int, str]:
        """How many maps `out_indices` can name, and what they are of."""
        return len(self.stages()), "stages"

    def attentions(self) -> list[list[nn.Module]]:
        """The attention module of each stage's blocks that merge."""
        return [stage.attentions for stage in self.stages()]

    def read_tome_cfg(self, tome_cfg: str | Sequence | Mapping | None) -> list[StageMerging]:
        """How each stage merges; raises TomeConfigError."""
        return parse_without_auto(tome_cfg, len(self.stages()))

    def tokens_kept(self, hw: Grid) -> list[dict[str, tuple[int, int]]]:
        """Tokens after and before merging in each stage's attention, for images of `hw` pixels.

        Returns:
            Per stage `{"q": (kept, total), "kv": (kept, total)}`, empty where no block has global
            attention.
        """
        kept = []
        for embed, attentions in self.stages():
            hw = embedded_grid(embed, hw)
            kept.append({})
            for attn in attentions[:1]:
                kv_hw = tuple(side // attn.sr_ratio for side in hw)
                for name, merger, grid in (
                    ("q", attn.q_merger, hw),
                    ("kv", attn.kv_merger, kv_hw),
                ):
                    kept[-1][name] = (merger.strategy.num_slots(grid), grid[0] * grid[1])
        return kept


def begin_pass(_embed: nn.Module, _inputs: tuple, output: tuple[Tensor, Grid]):
    """Forward hook of a patch embedding: slot maps of this pass will travel with the grid."""
    tokens, hw = output
    return tokens, PassGrid(hw)


def embedded_grid(embed: nn.Module, hw: Grid) -> Grid:
    """The token grid that a stock patch embedding makes of a map of `hw`."""
    conv = embed.projection
    more = embed.adap_padding.get_pad_shape(hw) if embed.adap_padding else (0, 0)
    return tuple(
        (side + extra + 2 * pad - kernel) // stride + 1
        for side, extra, pad, kernel, stride in zip(
            hw, more, conv.padding, conv.kernel_size, conv.stride, strict=True
        )
    )
