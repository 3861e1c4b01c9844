"""Segment mean and gather against a plain loop, with gradients, in every dtype."""

import pytest
import torch

from mmseg_tome.ops import gather_segments, segment_mean

# float16 has 11 significant bits, bfloat16 8; sums are in float32, so one rounding remains.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def mean_by_loop(x, slot, num_slots):
    slot = slot.expand(len(x), -1)
    rows = [[x[b, slot[b] == s].mean(0) for s in range(num_slots)] for b in range(len(x))]
    return torch.stack([torch.stack(row) for row in rows])


def random_slots(batch, tokens, num_slots):
    """Slots in random order, each used at least once."""
    every = torch.cat([torch.arange(num_slots), torch.randint(num_slots, (tokens - num_slots,))])
    return torch.stack([every[torch.randperm(tokens)] for _ in range(batch)])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 7, 3, 1), (2, 37, 5, 11), (3, 64, 16, 63)])
@pytest.mark.parametrize("shared_map", [True, False])
def test_segment_mean_and_its_gradient(dtype, shape, shared_map):
    batch, tokens, channels, num_slots = shape
    slot = random_slots(1 if shared_map else batch, tokens, num_slots)
    x = torch.randn(batch, tokens, channels, dtype=dtype, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    mean, expected = segment_mean(x, slot, num_slots), mean_by_loop(wide, slot, num_slots)
    assert mean.dtype == dtype
    close = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], check_dtype=False)
    torch.testing.assert_close(mean, expected, **close)
    weight = torch.randn_like(expected)
    (mean * weight.to(dtype)).sum().backward()
    (expected * weight.to(dtype)).sum().backward()
    torch.testing.assert_close(x.grad, wide.grad, **close)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shared_map", [True, False])
def test_gather_segments_and_its_gradient(dtype, shared_map):
    slot = random_slots(1 if shared_map else 2, 37, 11)
    y = torch.randn(2, 11, 5, dtype=dtype, requires_grad=True)
    out = gather_segments(y, slot)
    expected = torch.stack([y[b][slot.expand(2, -1)[b]] for b in range(2)])
    assert torch.equal(out, expected)
    weight = torch.randn_like(out)
    grad = torch.autograd.grad((out * weight).sum(), y, retain_graph=True)[0]
    expected_grad = torch.autograd.grad((expected * weight).sum(), y)[0]
    close = dict(rtol=3 * TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])
    torch.testing.assert_close(grad, expected_grad, **close)


def test_a_full_slot_does_not_overflow_float16():
    x = torch.full((1, 100, 2), 6e4, dtype=torch.float16)
    assert segment_mean(x, torch.zeros(1, 100, dtype=torch.int64), 1).tolist() == [[[6e4, 6e4]]]
