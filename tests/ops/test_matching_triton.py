"""The matching kernels against the twin in float64."""

import pytest
import torch

from mmseg_tome.ops import match
from mmseg_tome.ops.matching import match_torch

pytestmark = pytest.mark.usefixtures("kernels")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def split(tokens, num_dst, device):
    """Sources and destinations, each in ascending order."""
    order = torch.randperm(tokens)
    return order[num_dst:].sort()[0].to(device), order[:num_dst].sort()[0].to(device)


def assert_matches(metric, src, dst, result, tolerance=2e-6):
    """The similarity is the best, and the destination one that has it: rounding decides ties."""
    similarity, nearest = result
    assert similarity.dtype == torch.float32
    assert nearest.dtype == torch.int64
    unit = torch.nn.functional.normalize(metric.double(), dim=-1)
    scores = unit[:, src] @ unit[:, dst].transpose(1, 2)  # [B, S, D]
    close = dict(rtol=0, atol=tolerance, check_dtype=False)
    torch.testing.assert_close(similarity, scores.amax(-1), **close)
    chosen = scores.gather(2, nearest[:, :, None])[:, :, 0]
    torch.testing.assert_close(chosen, scores.amax(-1), **close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "tokens", "num_dst", "channels"),
    [(2, 17, 1, 1), (3, 17, 16, 7), (2, 37 * 5, 33, 40), (1, 150, 70, 96), (1, 37, 9, 320)],
)
def test_match_is_its_twin(dtype, batch, tokens, num_dst, channels, device):
    src, dst = split(tokens, num_dst, device)
    metric = torch.randn(batch, tokens, channels, device=device).to(dtype)
    result = match(metric, src, dst)
    assert_matches(metric, src, dst, result)
    assert all(map(torch.equal, result, match(metric, src, dst)))


def test_the_large_blocks_of_many_tokens(monkeypatch, device):
    from mmseg_tome.ops import matching_triton

    monkeypatch.setattr(matching_triton, "_blocks", lambda *problem: (128, 128, 32, 8))
    src, dst = split(600, 130, device)
    metric = torch.randn(1, 600, 70, device=device)
    result = matching_triton.match(metric, src, dst, True)  # as under autocast
    assert_matches(metric, src, dst, result, tolerance=2e-3)


def test_many_tokens(device):
    src, dst = split(37 * 353, 65, device)
    metric = torch.randn(1, 37 * 353, 5, device=device)
    assert_matches(metric, src, dst, match(metric, src, dst))


def test_no_source_at_all(device):
    src, dst = split(1, 1, device)
    similarity, nearest = match(torch.ones(2, 1, 4, device=device), src, dst)
    assert similarity.shape == nearest.shape == (2, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lower_of_equal_destinations_wins(dtype, device):
    src, dst = split(200, 150, device)
    metric = torch.ones(1, 200, 3, device=device, dtype=dtype)
    assert not match(metric, src, dst)[1].any()
    # The best is there twice, in different blocks of destinations.
    metric[0, dst, 0] = -1
    metric[0, dst[[70, 140]], 0] = 1
    assert (match(metric, src, dst)[1] == 70).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_without_a_direction_are_similar_to_nothing(dtype, device):
    metric = torch.randn(2, 40, 8, device=device).to(dtype)
    src, dst = split(40, 10, device)
    bad_src, bad_dst = src[[1, 5, 20]], dst[[0, 4, 9]]
    for bad in (bad_src, bad_dst):
        metric[:, bad[0]] = 0
        metric[:, bad[1], 3] = float("nan")
        metric[:, bad[2], 2] = float("inf")
    similarity, nearest = match(metric, src, dst)
    expected, expected_nearest = match_torch(metric.double(), src, dst)
    assert not similarity[:, [1, 5, 20]].any()
    torch.testing.assert_close(similarity, expected, atol=2e-6, rtol=0, check_dtype=False)
    assert torch.equal(nearest, expected_nearest)


def test_every_destination_without_a_direction(device):
    metric = torch.randn(1, 6, 4, device=device)
    src, dst = torch.tensor([1, 3, 5], device=device), torch.tensor([0, 2, 4], device=device)
    metric[:, dst] = float("nan")
    similarity, nearest = match(metric, src, dst)
    assert not similarity.any()
    assert not nearest.any()


def test_float16_near_its_limit(device):
    src, dst = split(60, 12, device)
    metric = (torch.randn(1, 60, 320, device=device).clamp(-1, 1) * 6.5e4).half()
    assert_matches(metric, src, dst, match(metric, src, dst))


def test_the_metric_may_be_a_view(device):
    src, dst = split(30, 6, device)
    metric = torch.randn(2, 9, 30, device=device).transpose(1, 2)
    assert_matches(metric, src, dst, match(metric, src, dst))


def test_autocast_rounds_float32_to_tf32_at_most(device):
    src, dst = split(160, 40, device)
    metric = torch.randn(1, 160, 64, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = match(metric, src, dst)
    assert_matches(metric, src, dst, result, tolerance=2e-3)


def test_matching_has_no_gradient(device):
    src, dst = split(12, 3, device)
    similarity, _ = match(torch.randn(1, 12, 4, device=device, requires_grad=True), src, dst)
    assert not similarity.requires_grad
