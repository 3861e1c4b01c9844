"""Each strategy against a restatement of its definition in plain loops, and its edge cases."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_tome.merging import (
    AlternatingMatching,
    BipartiteMatching,
    Identity,
    LocalMerging,
    MergingStrategy,
    NeighbourMerging1D,
    NeighbourMerging2D,
)

GRIDS = [(8, 12), (7, 9), (5, 4), (1, 6), (13, 1)]
EVERY = [
    BipartiteMatching(0.6, (2, 2)),
    BipartiteMatching(0.9, (4, 4)),
    BipartiteMatching(0.5, (3, 2)),
    AlternatingMatching(0.4),
    NeighbourMerging2D((2, 2)),
    NeighbourMerging2D((3, 4)),
    NeighbourMerging1D(2),
    NeighbourMerging1D(5),
    LocalMerging(0.5, (2, 2)),
    LocalMerging(0.8, (4, 3)),
    Identity(),
]


def groups(slot: torch.Tensor) -> set[frozenset[int]]:
    """The partition of the tokens that a sample's slots stand for."""
    return {frozenset((slot == s).nonzero().flatten().tolist()) for s in slot.unique()}


def bipartite_by_hand(metric, destinations, ratio):
    """Partition by the definition, one token at a time, for one sample `[N, C]`."""
    tokens = len(metric)
    sources = [n for n in range(tokens) if n not in destinations]
    r = min(int(tokens * ratio), len(sources)) if destinations else 0
    best = []
    for s in sources:
        sims = [float(F.cosine_similarity(metric[s], metric[d], dim=0)) for d in destinations]
        nearest = max(range(len(sims)), key=sims.__getitem__) if sims else None
        best.append((sims[nearest] if sims else 0.0, s, nearest))
    ranked = sorted(best, key=lambda pair: -pair[0])  # stable: ties keep the lower source
    merged = {s: destinations[nearest] for _, s, nearest in ranked[:r]}
    members = {n: {n} for n in range(tokens) if n not in merged}
    for s, d in merged.items():
        members[d].add(s)
    return {frozenset(group) for group in members.values()}


@pytest.mark.parametrize("hw", GRIDS)
@pytest.mark.parametrize("strategy", EVERY, ids=repr)
def test_every_slot_is_used_and_their_number_is_known_beforehand(strategy, hw):
    metric = torch.randn(3, hw[0] * hw[1], 6)
    slot, num_slots, *_ = strategy(metric, hw)
    assert num_slots == strategy.num_slots(hw)
    assert slot.shape[1] == hw[0] * hw[1]
    for sample in slot:
        assert sorted(sample.unique().tolist()) == list(range(num_slots))


@pytest.mark.parametrize("hw", GRIDS)
@pytest.mark.parametrize(("ratio", "stride"), [(0.6, (2, 2)), (0.9, (4, 4)), (0.3, (3, 2))])
def test_bipartite_matching_is_its_definition(hw, ratio, stride):
    metric = torch.randn(2, hw[0] * hw[1], 6)
    destinations = [
        y * hw[1] + x
        for y in range(0, hw[0] - stride[0] + 1, stride[0])
        for x in range(0, hw[1] - stride[1] + 1, stride[1])
    ]
    slot = BipartiteMatching(ratio, stride)(metric, hw).slot
    for b, sample in enumerate(slot):
        assert groups(sample) == bipartite_by_hand(metric[b], destinations, ratio)


@pytest.mark.parametrize("hw", GRIDS)
def test_original_tome_matches_even_tokens_to_odd_ones(hw):
    metric = torch.randn(2, hw[0] * hw[1], 6)
    slot = AlternatingMatching(0.4)(metric, hw).slot
    for b, sample in enumerate(slot):
        odd = list(range(1, hw[0] * hw[1], 2))
        assert groups(sample) == bipartite_by_hand(metric[b], odd, 0.4)


@pytest.mark.parametrize("hw", GRIDS)
@pytest.mark.parametrize("stride", [(2, 2), (3, 4), (1, 2)])
def test_neighbour_merging_2d_is_average_pooling(hw, stride):
    x = torch.randn(2, hw[0] * hw[1], 5)
    merged = NeighbourMerging2D(stride)(x, hw).merge(x)
    pooled = F.avg_pool2d(x.transpose(1, 2).reshape(2, 5, *hw), stride, stride, ceil_mode=True)
    torch.testing.assert_close(merged, pooled.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("stride", [2, 3])
def test_neighbour_merging_1d_is_average_pooling(stride):
    x = torch.randn(2, 35, 4)
    merged = NeighbourMerging1D(stride)(x, (7, 5)).merge(x)
    pooled = F.avg_pool1d(x.transpose(1, 2), stride, stride, ceil_mode=True)
    torch.testing.assert_close(merged, pooled.transpose(1, 2))


@pytest.mark.parametrize("hw", GRIDS)
@pytest.mark.parametrize("stride", [(2, 2), (3, 4)])
def test_local_merging_at_its_largest_ratio_is_neighbour_merging(hw, stride):
    x = torch.randn(2, hw[0] * hw[1], 5)
    local = LocalMerging(1 - 1 / (stride[0] * stride[1]), stride)(x, hw)
    windows = NeighbourMerging2D(stride)(x, hw)
    # Where the border cuts windows, less than that ratio can go.
    even = hw[0] % stride[0] == 0 and hw[1] % stride[1] == 0
    assert local.num_slots >= windows.num_slots
    if even:
        assert local.slot.tolist() == windows.slot.tolist()
    assert LocalMerging(0.99, stride)(x, hw).slot.tolist() == windows.slot.tolist()


@pytest.mark.parametrize("hw", GRIDS)
@pytest.mark.parametrize("ratio", [0.1, 0.37, 0.5, 0.7])
def test_local_merging_removes_what_the_ratio_says_in_whole_windows(hw, ratio):
    tokens = hw[0] * hw[1]
    removed = tokens - LocalMerging(ratio, (2, 2)).num_slots(hw)
    most = tokens - NeighbourMerging2D((2, 2)).num_slots(hw)
    assert removed <= min(int(tokens * ratio), most)
    # Less by a window's tokens, and by those of a cut one on each side.
    assert removed >= min(int(tokens * ratio), most) - 5


def test_local_merging_takes_the_windows_that_are_alike():
    x = torch.randn(1, 4, 6, 8)
    x[0, :2, 2:4] = x[0, 0, 2]  # the second window
    x[0, 2:, 4:] = x[0, 3, 5]  # the sixth
    slot = LocalMerging(0.25, (2, 2))(x.flatten(1, 2), (4, 6)).slot.view(4, 6)
    assert slot.tolist() == [
        [0, 1, 4, 4, 5, 6],
        [2, 3, 4, 4, 7, 8],
        [9, 10, 13, 14, 17, 17],
        [11, 12, 15, 16, 17, 17],
    ]


@pytest.mark.parametrize("hw", [(1, 1), (3, 3), (2, 9)])
def test_a_grid_below_one_cell_is_left_alone(hw):
    x = torch.randn(2, hw[0] * hw[1], 4)
    slots = BipartiteMatching(0.9, (4, 4))(x, hw)
    assert slots.num_slots == hw[0] * hw[1]
    assert slots.merge(x) is x


def test_ratio_zero_merges_nothing():
    x = torch.randn(1, 64, 4)
    assert BipartiteMatching(0.0, (2, 2))(x, (8, 8)).num_slots == 64


def test_ties_keep_the_lower_index():
    # All tokens alike: every source is as near to each destination, and to the first above all.
    slot, num_slots, *_ = BipartiteMatching(0.5, (2, 2))(torch.ones(1, 16, 3), (4, 4))
    assert num_slots == 8
    sources = [n for n in range(16) if n not in (0, 2, 8, 10)]
    assert groups(slot[0]) == {
        frozenset([0, *sources[:8]]),
        *(frozenset([n]) for n in (2, 8, 10, *sources[8:])),
    }


def test_samples_of_a_batch_do_not_see_each_other():
    metric = torch.randn(4, 96, 8)
    strategy = BipartiteMatching(0.7, (2, 2))
    together = strategy(metric, (8, 12)).slot
    for b in range(4):
        alone = strategy(metric[b : b + 1], (8, 12)).slot
        assert torch.equal(together[b], alone[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_divides_by_zero(dtype):
    metric = torch.randn(1, 64, 16).mul(1e4).to(dtype)
    metric[0, 5] = 0
    slots = BipartiteMatching(0.8, (4, 4))(metric, (8, 8))
    assert sorted(slots.slot.unique().tolist()) == list(range(slots.num_slots))
    merged = slots.merge(metric)
    assert merged.dtype == dtype
    assert merged.isfinite().all()


def test_index_maps_built_in_inference_mode_serve_training():
    strategy, hw = BipartiteMatching(0.6, (2, 2)), (6, 14)  # a grid no other test uses
    x = torch.randn(1, 84, 4)
    with torch.inference_mode():
        strategy(x, hw).merge(x)
        NeighbourMerging2D((2, 2))(x, hw).merge(x)
    x.requires_grad_()
    for s in (strategy, NeighbourMerging2D((2, 2))):
        slots = s(x, hw)
        slots.unmerge(slots.merge(x)).square().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BipartiteMatching(1.0), r"ratio must be a number in \[0, 1\), got 1.0"),
        (lambda: BipartiteMatching(-0.1), "ratio must be"),
        (lambda: BipartiteMatching("0.5"), "ratio must be"),
        (lambda: BipartiteMatching(0.5, (0, 2)), "two positive integers"),
        (lambda: BipartiteMatching(0.5, 2), "two positive integers"),
        (lambda: NeighbourMerging2D((2, 2, 2)), "two positive integers"),
        (lambda: NeighbourMerging1D((2, 2)), "a positive integer"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("tokens", [60, 65, 0])
@pytest.mark.parametrize("strategy", EVERY, ids=repr)
def test_tokens_of_another_grid_are_refused(strategy, tokens):
    with pytest.raises(ValueError, match=rf"\(2, {tokens}, 4\) .* grid of 8x8.*\[B, 64, C\]"):
        strategy(torch.randn(2, tokens, 4), (8, 8))


@pytest.mark.parametrize("strategy", EVERY, ids=repr)
def test_a_feature_map_is_no_tokens(strategy):
    with pytest.raises(ValueError, match=r"\(2, 64, 8, 8\) .* grid of 8x8"):
        strategy(torch.randn(2, 64, 8, 8), (8, 8))


def test_a_strategy_of_ones_own_is_given_no_other_tokens():
    class Mine(MergingStrategy):
        def __call__(self, metric, hw):
            return "called"

        def num_slots(self, hw):
            return 1

    assert Mine()(torch.zeros(1, 6, 2), (2, 3)) == "called"
    with pytest.raises(ValueError, match="grid of 2x2"):
        Mine()(torch.zeros(1, 6, 2), (2, 2))


@pytest.mark.parametrize("strategy", EVERY, ids=repr)
def test_a_trace_serves_other_images_and_batches(strategy):
    """`index_fill` with a bool hits an assertion inside of `torch.jit.trace`."""

    def merge(x):
        slots = strategy(x, (9, 11))
        return slots.unmerge_add(slots.merge(x), x)

    x = torch.randn(4, 99, 6)
    traced = torch.jit.trace(merge, torch.randn(1, 99, 6))
    torch.testing.assert_close(traced(x), merge(x))


def test_a_compiler_takes_local_merging_of_several_sizes():
    torch.compiler.reset()
    strategy = LocalMerging(0.4, (2, 2))

    def slot(x, height, width):
        return strategy(x, (height, width)).slot

    compiled = torch.compile(slot, backend="eager")
    for hw in ((6, 8), (5, 7)):
        x = torch.randn(2, hw[0] * hw[1], 4)
        assert torch.equal(compiled(x, *hw), slot(x, *hw))
