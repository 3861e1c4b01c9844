"""Merging in the attention modules of stock backbones: their class is exchanged, weights stay."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmseg_tome.merging import StageMerging
from mmseg_tome.merging.attention import Grid, PassGrid, let_merge
from mmseg_tome.nets.attention import EfficientAttention
from mmseg_tome.nets.errors import ImageSizeError
from mmseg_tome.nets.layers import map_to_tokens, tokens_to_map


class StockAttention(EfficientAttention):
    """`MergedAttention` on the layers of a stock module, which it takes the place of.

    For classes `class Merging(StockAttention, Stock)`, where `Stock` is a `MultiheadAttention` of
    mmcv, maybe with a spatial reduction `sr` and `norm`: see `exchange_attentions`.
    """

    sr_ratio = 1

    def forward(self, x: Tensor, hw_shape: Grid, identity: Tensor | float | None = None) -> Tensor:
        """Attend within each sample.

        Args:
            x: Tokens, `[B, H * W, C]`.
            hw_shape: Their grid; a `PassGrid` where blocks are to share slot maps.
            identity: What to add the update to, `x` if None.

        Returns:
            `[B, H * W, C]`.

        Raises:
            ImageSizeError: The grid is smaller than the spatial reduction.
        """
        update, slots = self.merge_and_attend(x, hw_shape)
        update = self.dropout_layer(self.proj_drop(slots.q.unmerge(update)))
        return (x if identity is None else identity) + update

    def reduce(self, x: Tensor, hw: PassGrid) -> tuple[Tensor, PassGrid]:
        if self.sr_ratio == 1:
            return x, hw
        if min(hw) < self.sr_ratio:
            raise ImageSizeError(
                f"the image is too small: a stage has {hw[0]}x{hw[1]} tokens, its attention "
                f"reduces {self.sr_ratio}x{self.sr_ratio} of them to one"
            )
        x = self.sr(tokens_to_map(x, tuple(hw)))  # [B, C, h, w]
        return self.norm(map_to_tokens(x)), hw.resized(x.shape[2:])


def exchange_attentions(
    attentions: Sequence[nn.Module], cls: type[StockAttention], merging: StageMerging, stage: int
) -> None:
    """Let the attention modules of one stage merge tokens, in place; parameters and names stay.

    Args:
        attentions: Of the blocks in their order, instances of the stock class that `cls` extends.
        cls: What they become.
        merging: How the stage merges.
        stage: Its number, see `let_merge`.
    """
    for attn in attentions:
        attn.__class__ = cls
    let_merge(attentions, merging, stage)
