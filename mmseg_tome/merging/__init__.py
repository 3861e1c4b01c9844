"""Token merging on its own: slot maps, the strategies that make them, and presets. Torch only.

slots = BipartiteMatching(ratio=0.8, stride=(4, 4))(x, hw=(64, 64))
y = attention(slots.merge(x))       # [B, 4096, C] -> [B, 820, C]
x = slots.unmerge_add(y, x)         # x + slots.unmerge(y): and back

For merging in an attention of your own, see docs/concepts/your_own_attention.md and
examples/merge_your_own_attention.py; for the SegFormer of transformers, `mmseg_tome.huggingface`.
"""

from mmseg_tome.merging.config import (
    StageMerging,
    TomeConfigError,
    merges,
    parse_tome_cfg,
    parse_without_auto,
    split_auto,
)
from mmseg_tome.merging.presets import PRESETS
from mmseg_tome.merging.slot_map import SlotMap
from mmseg_tome.merging.strategies import STRATEGIES, MergingStrategy, register_strategy
from mmseg_tome.merging.strategies.bipartite import AlternatingMatching, BipartiteMatching
from mmseg_tome.merging.strategies.identity import Identity
from mmseg_tome.merging.strategies.local import LocalMerging
from mmseg_tome.merging.strategies.neighbour import NeighbourMerging1D, NeighbourMerging2D

__all__ = [
    "PRESETS",
    "STRATEGIES",
    "AlternatingMatching",
    "BipartiteMatching",
    "Identity",
    "LocalMerging",
    "MergingStrategy",
    "NeighbourMerging1D",
    "NeighbourMerging2D",
    "SlotMap",
    "StageMerging",
    "TomeConfigError",
    "merges",
    "parse_tome_cfg",
    "parse_without_auto",
    "register_strategy",
    "split_auto",
]
