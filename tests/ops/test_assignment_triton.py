"""The assignment kernels against their twin: every slot and every place is the same."""

import pytest
import torch

from mmseg_tome.ops import assign_ordered, segment_order
from mmseg_tome.ops.assignment import assign_torch
from mmseg_tome.ops.segment import segment_order_torch

pytestmark = pytest.mark.usefixtures("kernels")

KINDS = {
    "random": lambda s: s,
    "ties": lambda s: (4 * s).round() / 4,
    "equal": lambda s: torch.full_like(s, 0.5),
    "zeros of both signs": lambda s: torch.where(s > 0.3, 0.0, torch.where(s < -0.3, -0.0, s)),
    "nan": lambda s: s.masked_fill(s > 0.2, float("nan")),
    "infinite": lambda s: s.masked_fill(s > 0.5, float("inf")).masked_fill(s < 0, -float("inf")),
    "narrow": lambda s: 1 - s.abs() * 1e-6,
}


def matched(batch, num_src, num_dst, device):
    """Random similarities in [-1, 1], pairs and a split of the tokens."""
    order = torch.randperm(num_src + num_dst, device=device)
    src, dst = order[num_dst:].sort()[0], order[:num_dst].sort()[0]
    similarity = torch.rand(batch, num_src, device=device) * 2 - 1
    return similarity, torch.randint(num_dst, (batch, num_src), device=device), src, dst


def assert_is_its_twin(similarity, nearest, r, src, dst):
    matched = similarity, nearest, r, src, dst, len(src) + len(dst)
    slot, order = assign_ordered(*matched)
    expected = assign_torch(*matched[:-1])
    assert torch.equal(slot, expected)
    expected_order = segment_order_torch(expected, matched[-1] - r)
    assert all(map(torch.equal, order[:2], expected_order[:2]))
    assert order.largest == expected_order.largest


@pytest.mark.parametrize("kind", KINDS)
def test_assign_is_its_twin(kind, device):
    similarity, *rest = matched(2, 37 * 4, 37, device)
    for r in (0, 1, 70, 37 * 4):
        assert_is_its_twin(KINDS[kind](similarity), rest[0], r, *rest[1:])


@pytest.mark.parametrize(("batch", "num_src", "num_dst"), [(1, 1, 1), (3, 16, 1), (1, 17, 300)])
def test_odd_numbers(batch, num_src, num_dst, device):
    similarity, *rest = matched(batch, num_src, num_dst, device)
    for r in {1, num_src // 2, num_src}:
        assert_is_its_twin(similarity, rest[0], r, *rest[1:])


def test_the_most_sources_of_one_launch(device):
    similarity, *rest = matched(1, 16384, 30, device)
    for kind in ("random", "ties"):
        assert_is_its_twin(KINDS[kind](similarity), rest[0], 15000, *rest[1:])


@pytest.mark.parametrize("num_src", [16385, 32769, 40011])
def test_many_sources(num_src, device):
    from mmseg_tome.ops import assignment_triton

    similarity, *rest = matched(1, num_src, 1200, device)
    for kind, r in (("random", int(0.8 * num_src)), ("ties", int(0.4 * num_src))):
        matches = KINDS[kind](similarity), rest[0], r, *rest[1:]
        slot = assignment_triton.assign_many(*matches)
        assert torch.equal(slot, assign_torch(*matches))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_similarities(dtype, device):
    similarity, *rest = matched(1, 90, 7, device)
    assert_is_its_twin(similarity.to(dtype), rest[0], 50, *rest[1:])


def test_no_source_or_no_destination_at_all(device):
    similarity, *rest = matched(2, 0, 3, device)
    assert_is_its_twin(similarity, rest[0], 0, *rest[1:])
    similarity, tokens = torch.rand(2, 40, device=device), torch.arange(40, device=device)
    assert_is_its_twin(similarity, torch.zeros_like(similarity).long(), 0, tokens, tokens[:0])


def test_one_destination_takes_nearly_all(device):
    # Its sources fill several steps of a program's sort, before and behind the destination.
    similarity, nearest, src, dst = matched(2, 900, 21, device)
    nearest[:, ::2] = 10
    nearest[1] = 20
    assert_is_its_twin(similarity, nearest, 850, src, dst)


def test_destinations_before_and_behind_all_sources(device):
    similarity, nearest, *_ = matched(1, 40, 12, device)
    tokens = torch.arange(52, device=device)
    for dst in (tokens[:12], tokens[40:]):
        src = tokens[~torch.isin(tokens, dst)]
        assert_is_its_twin(similarity, nearest, 30, src, dst)


def test_both_ways_give_the_same(monkeypatch, device):
    from mmseg_tome.ops import assignment_triton

    similarity, nearest, src, dst = matched(2, 300, 40, device)
    similarity = KINDS["ties"](similarity)
    runs = []
    for most in (300, 299):
        monkeypatch.setattr(assignment_triton, "MOST_SOURCES", most)
        slot, order = assign_ordered(similarity, nearest, 170, src, dst, 340)
        runs.append((slot, *order[:2]))
    assert all(map(torch.equal, *runs))
    assert all(map(torch.equal, order[:2], segment_order(slot, 170)[:2]))


def test_tokens_in_any_order_have_slots(device):
    similarity, nearest, src, dst = matched(1, 60, 9, device)
    matched_pairs = similarity, nearest, 40, src.flip(0), dst.flip(0), 69
    assert torch.equal(assign_ordered(*matched_pairs)[0], assign_torch(*matched_pairs[:-1]))


def test_the_launches_of_a_search(device):
    launching = pytest.importorskip("mmseg_tome.ops.launching")
    similarity, nearest, src, dst = matched(1, 60, 9, device)
    seen = []
    with launching.watch_launches(lambda name, arguments: seen.append(name)):
        assign_ordered(similarity, nearest, 40, src, dst, 69)
    assert seen == ["_assign_kernel"]
