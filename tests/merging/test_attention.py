"""Slot maps are found once for a group in a pass, and live as long as the pass."""

import gc
import weakref

import torch

from mmseg_tome.merging import BipartiteMatching, NeighbourMerging2D
from mmseg_tome.merging.attention import PassGrid, TokenMerger


def test_a_group_shares_one_map_of_a_pass():
    first, second = (TokenMerger(BipartiteMatching(0.5), ("q", 0)) for _ in range(2))
    other = TokenMerger(BipartiteMatching(0.5), ("q", 1))
    x, y = torch.randn(2, 1, 24, 8)
    grid = PassGrid((4, 6))
    slots = first(x, grid)
    assert second(y, grid) is slots
    assert other(y, grid) is not slots
    assert second(y, PassGrid((4, 6))) is not slots


def test_no_cache_keeps_the_maps_of_a_pass():
    """Index maps are cached by grid: a `PassGrid` for a key would live as long as they do."""

    class Maps(dict):
        """A dict that can be referred to weakly."""

    maps = Maps()
    grid = PassGrid((5, 11), maps)
    TokenMerger(NeighbourMerging2D((2, 3)), ("q", 0))(torch.randn(1, 55, 4), grid)
    TokenMerger(BipartiteMatching(0.5, (3, 2)), ("q", 1))(torch.randn(1, 55, 4), grid)
    assert len(maps) == 2
    alive = weakref.ref(maps)
    del grid, maps
    gc.collect()
    assert alive() is None


def test_without_a_group_every_merger_finds_its_own():
    merger, x, grid = TokenMerger(BipartiteMatching(0.5)), torch.randn(1, 24, 8), PassGrid((4, 6))
    assert merger(x, grid) is not merger(x, grid)
    assert not grid.slots
    assert torch.equal(merger(x, (4, 6)).slot, merger(x, grid).slot)


def test_a_pass_may_merge_nothing():
    merger, x = TokenMerger(BipartiteMatching(0.5), ("q", 0)), torch.randn(1, 24, 8)
    grid = PassGrid((4, 6), merges=False)
    assert merger(x, grid).num_slots == 24
    assert grid.resized((2, 3)) == (2, 3)
    assert not grid.resized((2, 3)).merges
    assert not grid.slots
