"""Merging in the attention modules of stock backbones: their class is exchanged, weights stay."""

from collections.abc import Iterable

from torch import Tensor

from mmseg_tome.merging import MergingStrategy, SlotMap, StageMerging
from mmseg_tome.nets.attention import MergedAttention, TokenMerger
from mmseg_tome.nets.errors import ImageSizeError
from mmseg_tome.nets.layers import Grid, map_to_tokens, tokens_to_map


class PassGrid(tuple):
    """A grid (H, W) of one forward pass, with the slot maps that blocks share in this pass.

    Stock backbones hand a stage's grid from its patch embedding to each of its blocks. What travels
    with it need not be kept in modules, where threads, and blocks that are recomputed for their
    gradient, would take one another's.

    Attributes:
        slots: The slot map of each group of mergers, filled by the first of them that runs.
    """

    def __init__(self, hw: Iterable[int], slots: dict[tuple, SlotMap] | None = None):
        self.slots = {} if slots is None else slots

    def __new__(cls, hw: Iterable[int], slots: dict[tuple, SlotMap] | None = None):
        return super().__new__(cls, hw)


class SharingMerger(TokenMerger):
    """A token merger that finds no slot map of its own where one of its group has found one.

    Args:
        strategy: How to find it.
        group: Mergers of one stage with the same group share their slot map within a pass.
    """

    def __init__(self, strategy: MergingStrategy, group: tuple):
        super().__init__(strategy)
        self.group = group

    def forward(self, metric: Tensor, hw: PassGrid) -> SlotMap:
        """Slot map of the tokens `metric`, `[B, H * W, C]`, on the grid `hw`."""
        if self.group not in hw.slots:
            hw.slots[self.group] = super().forward(metric, tuple(hw))
        return hw.slots[self.group]


class StockAttention(MergedAttention):
    """`MergedAttention` on the layers of a stock module, which it takes the place of.

    For classes `class Merging(StockAttention, Stock)`, where `Stock` is a `MultiheadAttention` of
    mmcv, maybe with a spatial reduction `sr` and `norm`: see `let_merge`.
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
        hw = hw_shape if isinstance(hw_shape, PassGrid) else PassGrid(hw_shape)
        update, slots = super().forward(x, hw)
        update = self.dropout_layer(self.proj_drop(slots.q.unmerge(update)))
        return (x if identity is None else identity) + update

    def reduce(self, x: Tensor, hw: PassGrid) -> tuple[Tensor, PassGrid]:
        """Spatially reduce the tokens that keys and values are made from, with their new grid."""
        if self.sr_ratio == 1:
            return x, hw
        if min(hw) < self.sr_ratio:
            raise ImageSizeError(
                f"the image is too small: a stage has {hw[0]}x{hw[1]} tokens, its attention "
                f"reduces {self.sr_ratio}x{self.sr_ratio} of them to one"
            )
        x = self.sr(tokens_to_map(x, tuple(hw)))  # [B, C, h, w]
        return self.norm(map_to_tokens(x)), PassGrid(x.shape[2:], hw.slots)


def let_merge(attentions: Iterable, cls: type[StockAttention], merging: StageMerging) -> None:
    """Let the attention modules of one stage merge tokens, in place; parameters and names stay.

    Args:
        attentions: Of the blocks in their order, instances of the stock class that `cls` extends.
        cls: What they become.
        merging: How the stage merges; `reuse` counts the modules given here.
    """
    for number, attn in enumerate(attentions):
        attn.__class__ = cls
        group = number // merging.reuse
        attn.q_merger = SharingMerger(merging.q, ("q", group))
        attn.kv_merger = SharingMerger(merging.kv, ("kv", group))
        attn.proportional = merging.proportional
