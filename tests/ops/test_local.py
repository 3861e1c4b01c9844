"""How alike windows are, and which of them merge, against their definitions in plain loops."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_tome import ops
from mmseg_tome.merging.strategies.neighbour import window_map
from mmseg_tome.ops import local

CASES = [((8, 8), (2, 2)), ((9, 11), (2, 2)), ((7, 5), (3, 2)), ((4, 4), (4, 4)), ((3, 2), (4, 4))]


def members(hw, stride):
    """Tokens of each window, window by window."""
    window = window_map(hw, stride, torch.device("cpu")).slot[0]
    return [(window == w).nonzero().flatten() for w in range(int(window.max()) + 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("hw", "stride"), CASES)
def test_similarity_is_the_mean_cosine_to_the_mean(hw, stride, dtype):
    metric = torch.randn(2, hw[0] * hw[1], 6).to(dtype)
    found = ops.window_similarity(metric, hw, stride)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    for b, sample in enumerate(metric.double()):
        for w, tokens in enumerate(members(hw, stride)):
            mean = sample[tokens].mean(0, keepdim=True)
            expected = F.cosine_similarity(sample[tokens], mean).mean()
            assert abs(found[b, w] - expected) < 1e-5


def test_what_has_no_direction_is_like_nothing():
    metric = torch.ones(1, 16, 3)
    metric[0, 0] = 0.0  # one of the first window's tokens
    metric[0, [2, 3, 6, 7]] = 0.0  # all of the second window's
    metric[0, 8] = torch.inf
    metric[0, 10] = torch.nan
    found = ops.window_similarity(metric, (4, 4), (2, 2))
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.0, 0.0, 0.0]]))


def test_shapes_of_windows_are_counted():
    assert local.window_counts((9, 11), (2, 3)) == (12, 4, 3, 1)
    assert local.window_sizes((9, 11), (2, 3)) == (6, 4, 3, 2)
    assert local.window_counts((8, 12), (2, 3)) == (16, 0, 0, 0)
    assert local.window_counts((1, 2), (2, 3)) == (0, 0, 0, 1)
    assert local.slots_left(ops.Counts(5, 1, 0, 1), (9, 11), (2, 3)) == 99 - 5 * 5 - 3 - 1


@pytest.mark.parametrize(("hw", "stride"), CASES)
def test_the_most_alike_windows_of_each_shape_merge(hw, stride):
    there, tokens = local.window_counts(hw, stride), members(hw, stride)
    similarity = torch.rand(3, sum(there)).round(decimals=1)  # with ties
    counts = ops.Counts(*(n // 2 for n in there))
    windows = window_map(hw, stride, similarity.device)
    slot, order = ops.assign_windows(similarity, windows.slot, None, counts, hw, stride)
    assert order is None
    cols = -(-hw[1] // stride[1])
    for b, sample in enumerate(similarity):
        merged = set()
        for kind, r in enumerate(counts):
            of_kind = [
                w
                for w in range(sum(there))
                if kind == 2 * (w // cols >= hw[0] // stride[0]) + (w % cols >= hw[1] // stride[1])
            ]
            merged |= set(sorted(of_kind, key=lambda w: -float(sample[w]))[:r])
        expected, at = torch.full((hw[0] * hw[1],), -1), 0
        for w, own in enumerate(tokens):
            expected[own] = at if w in merged else torch.arange(at, at + len(own))
            at += 1 if w in merged else len(own)
        assert torch.equal(slot[b], expected)
        assert at == local.slots_left(counts, hw, stride)


def test_no_number_is_the_least_alike():
    similarity = torch.tensor([[torch.nan, -1.0, torch.inf, torch.nan]])
    windows = window_map((2, 8), (2, 2), similarity.device)
    for r, expected in ((1, {2}), (2, {1, 2}), (3, {0, 1, 2})):
        counts = ops.Counts(r, 0, 0, 0)
        slot, _ = ops.assign_windows(similarity, windows.slot, None, counts, (2, 8), (2, 2))
        merged = {
            w for w, own in enumerate(members((2, 8), (2, 2))) if len(slot[0, own].unique()) == 1
        }
        assert merged == expected
