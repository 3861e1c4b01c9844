"""Index maps are kept between calls, but nothing of a mode, a transform or another thread."""

import sys
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mmseg_tome.merging import (
    AlternatingMatching,
    BipartiteMatching,
    Identity,
    NeighbourMerging1D,
    NeighbourMerging2D,
    grid_cache,
)
from mmseg_tome.merging.grid_cache import cached_per_grid

EVERY = [
    BipartiteMatching(0.6, (2, 2)),
    AlternatingMatching(0.4),
    NeighbourMerging1D(3),
    NeighbourMerging2D((2, 2)),
    Identity(),
]


@pytest.mark.parametrize("strategy", EVERY, ids=repr)
@pytest.mark.parametrize("real_first", [False, True])
def test_a_fake_pass_leaves_nothing_behind(strategy, real_first):
    hw = (10 + real_first, 13)  # a grid that no other test uses
    x = torch.randn(2, hw[0] * hw[1], 4)
    if real_first:
        strategy(x, hw)
    with FakeTensorMode() as mode:
        fake = strategy(mode.from_tensor(x), hw)
    assert isinstance(fake.slot, FakeTensor)
    slots = strategy(x, hw)
    assert type(slots.slot) is torch.Tensor
    assert sorted(slots.slot[0].unique().tolist()) == list(range(slots.num_slots))


@pytest.mark.parametrize("strategy", EVERY, ids=repr)
def test_a_transform_leaves_nothing_behind(strategy):
    x = torch.randn(1, 14 * 9, 4)
    torch.func.grad(lambda x: strategy(x, (14, 9)).merge(x).square().sum())(x)
    slot = strategy(x, (14, 9)).slot
    assert not torch._C._functorch.is_functorch_wrapped_tensor(slot)


def test_a_map_is_built_once():
    built = []

    @cached_per_grid
    def build(n):
        built.append(n)
        return torch.arange(n)

    assert build(5) is build(5)
    assert built == [5]


def test_threads_that_push_each_others_maps_out_get_their_own(monkeypatch):
    monkeypatch.setattr(grid_cache, "MAX_GRIDS", 1)

    @cached_per_grid
    def build(n):
        return n

    problems = []

    def look(first):
        try:
            for i in range(4000):
                n = (first + i) % 3
                assert build(n) == n
        except Exception as error:
            problems.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=look, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert problems == []
