"""Every strategy on any grid, of any tokens: its map is one, and merging by it is a mean."""

import os

import pytest
import torch

from mmseg_tome.merging import (
    AlternatingMatching,
    BipartiteMatching,
    Identity,
    LocalMerging,
    NeighbourMerging1D,
    NeighbourMerging2D,
)

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

settings = hypothesis.settings(max_examples=int(os.environ.get("PROPERTY_EXAMPLES", 200)))

sides = st.integers(1, 14)
ratios = st.floats(0, 1, exclude_max=True)
strides = st.tuples(st.integers(1, 5), st.integers(1, 5))
strategies = st.one_of(
    st.builds(BipartiteMatching, ratios, strides),
    st.builds(AlternatingMatching, ratios),
    st.builds(NeighbourMerging1D, st.integers(1, 9)),
    st.builds(NeighbourMerging2D, strides),
    st.builds(LocalMerging, ratios, strides),
    st.just(Identity()),
)


@st.composite
def tokens(draw, count: int):
    """`[B, count, C]`, some of them equal, zero or no numbers."""
    shape = (draw(st.integers(1, 3)), count, draw(st.integers(1, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = torch.randn(shape, generator=generator)
    x = x.to(draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])))
    for value in draw(st.lists(st.sampled_from([0.0, 1.0, torch.inf, torch.nan]), max_size=3)):
        x[:, draw(st.integers(0, count - 1)) :: draw(st.integers(1, 5))] = value
    return x


@settings
@hypothesis.given(st.data(), strategies, sides, sides)
def test_a_map_is_one_whatever_the_tokens(data, strategy, height, width):
    x = data.draw(tokens(height * width))
    slots = strategy(x, (height, width))
    assert slots.num_slots == strategy.num_slots((height, width)) >= 1
    assert slots.slot.shape in {(1, height * width), (len(x), height * width)}
    for sample in slots.slot:
        assert sorted(sample.unique().tolist()) == list(range(slots.num_slots))
    if slots.num_slots == height * width:
        assert all(torch.equal(s, torch.arange(height * width)) for s in slots.slot)
    x = torch.randn(len(x), height * width, 3, dtype=torch.float64)
    merged = slots.merge(x)
    for b, sample in enumerate(slots.slot.expand(len(x), -1)):
        for slot in range(slots.num_slots):
            torch.testing.assert_close(merged[b, slot], x[b][sample == slot].mean(0))
    torch.testing.assert_close(slots.merge(slots.unmerge(merged)), merged)
    assert slots.sizes().sum(1).tolist() == [height * width] * len(slots.slot)


@settings
@hypothesis.given(strategies, sides, sides, st.integers(0, 200))
def test_tokens_of_another_grid_are_always_refused(strategy, height, width, count):
    hypothesis.assume(count != height * width)
    with pytest.raises(ValueError, match=rf"grid of {height}x{width}"):
        strategy(torch.randn(2, count, 3), (height, width))
