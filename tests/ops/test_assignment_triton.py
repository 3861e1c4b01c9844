"""The assignment kernel against its twin: every slot is the same."""

import pytest
import torch

from mmseg_tome.ops import assign, assignment

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
    tokens = len(src) + len(dst)
    slot = assign(similarity, nearest, r, src, dst, tokens)
    assert torch.equal(slot, assignment.assign(similarity, nearest, r, src, dst, tokens))


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


@pytest.mark.parametrize("num_src", [16384, 32769, 40011])
def test_many_sources(num_src, device):
    similarity, *rest = matched(1, num_src, 1200, device)
    assert_is_its_twin(similarity, rest[0], int(0.8 * num_src), *rest[1:])
    ties = KINDS["ties"](similarity)
    assert_is_its_twin(ties, rest[0], int(0.4 * num_src), *rest[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_similarities(dtype, device):
    similarity, *rest = matched(1, 90, 7, device)
    assert_is_its_twin(similarity.to(dtype), rest[0], 50, *rest[1:])


def test_no_source_at_all(device):
    similarity, *rest = matched(2, 0, 3, device)
    assert_is_its_twin(similarity, rest[0], 0, *rest[1:])
