"""Attention over merged tokens (SegFormer++, arXiv 2405.14467, section 3), whatever its layers.

`MergedAttention` says what is done in which order: reduce, find slots, merge, project, attend. Our
network, stock backbones and the SegFormer of transformers say with which layers.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from torch import Tensor, nn

from mmseg_tome import ops
from mmseg_tome.merging.config import StageMerging
from mmseg_tome.merging.memory import SlotMemory
from mmseg_tome.merging.slot_map import SlotMap
from mmseg_tome.merging.strategies import MergingStrategy
from mmseg_tome.merging.strategies.identity import Identity, identity_map
from mmseg_tome.ops.streams import side_by_side

Grid = tuple[int, int]
"""Rows and columns of a token grid, (H, W)."""


class PassGrid(tuple):
    """A grid (H, W) of one forward pass, with the slot maps that blocks share in this pass.

    State that travels with the grid need not be kept in modules, where it would be shared by
    threads and by blocks recomputed for their gradient.

    Attributes:
        slots: The slot map of each group of mergers, filled by the first of them that runs.
        merges: Whether anything merges in this pass.
    """

    def __init__(
        self, hw: Iterable[int], slots: dict[Hashable, SlotMap] | None = None, merges: bool = True
    ):
        self.slots = {} if slots is None else slots
        self.merges = merges

    def __new__(
        cls, hw: Iterable[int], slots: dict[Hashable, SlotMap] | None = None, merges: bool = True
    ) -> "PassGrid":
        return super().__new__(cls, hw)

    def resized(self, hw: Iterable[int]) -> "PassGrid":
        """Another grid of the same pass."""
        return PassGrid(hw, self.slots, self.merges)


class TokenMerger(nn.Module):
    """A merging strategy as a module, so that a forward hook can see every slot map.

    Args:
        strategy: How to find slot maps.
        group: Mergers of the same group share their slot map within a pass; None for one that
            shares none.

    Attributes:
        memory: Keeps slot maps from frame to frame; None for images.
    """

    memory: SlotMemory | None = None

    def __init__(self, strategy: MergingStrategy, group: Hashable | None = None):
        super().__init__()
        self.strategy = strategy
        self.group = group

    def forward(self, metric: Tensor, hw: Grid | PassGrid) -> SlotMap:
        """Slot map of the tokens `metric`, `[B, H * W, C]`, on the grid `hw`."""
        grid = tuple(hw)  # index maps are cached by grid: a `PassGrid` would live as long
        if not isinstance(hw, PassGrid):
            return self._find(metric, grid)
        if not hw.merges:
            return identity_map(grid[0] * grid[1], metric.device)
        if self.group is None:
            return self._find(metric, grid)
        if self.group not in hw.slots:
            hw.slots[self.group] = self._find(metric, grid)
        return hw.slots[self.group]

    def _find(self, metric: Tensor, grid: Grid) -> SlotMap:
        if self.memory is None:
            return self.strategy(metric, grid)
        return self.memory.slots(self.strategy, id(self), metric, grid)

    def extra_repr(self) -> str:
        return repr(self.strategy)


class Slots(NamedTuple):
    """The slot maps of one block: of its queries, and of its keys and values."""

    q: SlotMap
    kv: SlotMap


class MergedAttention:
    """Multi-head attention over merged queries and merged, spatially reduced keys and values.

    Queries merge on the stage's grid; keys and values merge after the spatial reduction and feed
    both K and V. That every token of the full grid reads its slot back is left to the caller.

    For modules, as `class Ours(MergedAttention, nn.Module)`: they say what their layers are, and
    `let_merge` says how they merge.

    Attributes:
        q_merger: Finds the queries' slot maps.
        kv_merger: Finds those of keys and values.
        proportional: Whether a merged key counts for as many keys as it stands for.
    """

    q_merger: TokenMerger
    kv_merger: TokenMerger
    proportional: bool

    def reduce(self, x: Tensor, hw: PassGrid) -> tuple[Tensor, PassGrid]:
        """Spatially reduce the tokens that keys and values are made from, with their new grid."""
        raise NotImplementedError

    def project_queries(self, x: Tensor) -> Tensor:
        """`[B, M, C] -> [B, heads, M, C / heads]`."""
        raise NotImplementedError

    def project_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, L, C]` -> keys and values, `[B, heads, L, C / heads]` each."""
        raise NotImplementedError

    def project_out(self, x: Tensor) -> Tensor:
        """`[B, M, C]` in and out."""
        raise NotImplementedError

    def weights_dropout(self) -> float:
        """Dropout of attention weights in the mode that the module is in."""
        raise NotImplementedError

    def find_slots(self, merger: TokenMerger, x: Tensor, hw: PassGrid) -> SlotMap:
        """The slot map of tokens `[B, N, C]`."""
        return merger(x, hw)

    def merge_and_attend(
        self, x: Tensor, hw: Grid | PassGrid, attend: Callable[..., Tensor] = ops.attend
    ) -> tuple[Tensor, Slots]:
        """Attend within each sample.

        Args:
            x: Tokens, `[B, H * W, C]`.
            hw: Their grid; a `PassGrid` where blocks are to share slot maps.
            attend: `(q, k, v, bias, dropout)` to `[B, heads, M, C / heads]`, see `ops.attend`.

        Returns:
            The update of the merged queries, `[B, M, C]`, which each token is to read by the
            queries' slot map; and the slot maps that were used.
        """
        hw = hw if isinstance(hw, PassGrid) else PassGrid(hw)
        (q, q_slots), (k, v, kv_slots) = side_by_side(
            lambda: self.queries(x, hw), lambda: self.keys_values(x, hw), x
        )
        bias = kv_slots.key_bias(k.dtype) if self.proportional else None
        out = attend(q, k, v, bias, self.weights_dropout())  # [B, heads, M, C / heads]
        return self.project_out(out.transpose(1, 2).flatten(2)), Slots(q_slots, kv_slots)

    def queries(self, x: Tensor, hw: PassGrid) -> tuple[Tensor, SlotMap]:
        """Merge the tokens and project them, `[B, H * W, C] -> [B, heads, M, C / heads]`."""
        slots = self.find_slots(self.q_merger, x, hw)
        return self.project_queries(slots.merge(x)), slots

    def keys_values(self, x: Tensor, hw: PassGrid) -> tuple[Tensor, Tensor, SlotMap]:
        """Reduce, merge and project the tokens to keys and values, `[B, heads, L, C / heads]`."""
        x, hw = self.reduce(x, hw)
        slots = self.find_slots(self.kv_merger, x, hw)
        return *self.project_keys_values(slots.merge(x)), slots


NO_MERGING = StageMerging(Identity(), Identity())


def let_merge(attentions: Iterable[MergedAttention], merging: StageMerging, stage: int = 0) -> None:
    """Let the attention modules of one stage merge tokens from now on.

    Args:
        attentions: Of the blocks in their order.
        merging: How the stage merges; `reuse` counts the modules given here.
        stage: Tells its groups from those of other stages, where passes go through several.
    """
    for number, attn in enumerate(attentions):
        group = number // merging.reuse if merging.reuse > 1 else None
        attn.proportional = merging.proportional
        for name, strategy in (("q", merging.q), ("kv", merging.kv)):
            merger = getattr(attn, f"{name}_merger", None)
            if merger is None:
                merger = TokenMerger(strategy)
                setattr(attn, f"{name}_merger", merger)
            merger.strategy = strategy
            merger.group = None if group is None else (stage, name, group)
