"""The segment kernels against their twins in float64, with gradients."""

import pytest
import torch

from mmseg_tome.ops import (
    gather_segments,
    gather_segments_add,
    log_sizes,
    segment,
    segment_mean,
    segment_order,
)
from mmseg_tome.ops.launching import watch_launches

pytestmark = pytest.mark.usefixtures("kernels")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Two units in the last place: Triton's interpreter truncates to bfloat16 instead of rounding.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1.6e-2}
# Batch, tokens, channels, slots, and whose map: each sample's, all samples', or a crowded one.
CASES = [
    (1, 1, 1, 1, "own"),
    (2, 17, 7, 5, "shared"),
    (1, 100, 320, 1, "own"),
    (2, 37 * 4, 40, 37, "own"),
    (3, 70, 5, 33, "shared"),
    (1, 37 * 9, 96, 50, "crowded"),
]


def random_slots(batch, tokens, num_slots, device, crowded=False):
    """Slots in random order, each used at least once; crowded: most tokens are in slots 0 and 1."""
    rest = torch.randint(2 if crowded else num_slots, (tokens - num_slots,)) % num_slots
    every = torch.cat([torch.arange(num_slots), rest])
    return torch.stack([every[torch.randperm(tokens)] for _ in range(batch)]).to(device)


def slots_of(case, device):
    batch, tokens, _, num_slots, kind = case
    maps = 1 if kind == "shared" else batch
    return random_slots(maps, tokens, num_slots, device, kind == "crowded")


def assert_close(result, expected, dtype):
    assert result.dtype == dtype
    close = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], check_dtype=False)
    torch.testing.assert_close(result, expected, **close)


def assert_same(order, expected):
    assert all(map(torch.equal, order[:2], expected[:2]))
    assert order.largest == expected.largest


@pytest.mark.parametrize("case", CASES, ids=str)
def test_order_is_its_twin(case, device):
    slot, num_slots = slots_of(case, device), case[3]
    order = segment_order(slot, num_slots)
    assert_same(order, segment.segment_order_torch(slot, num_slots))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_mean_and_its_gradient(dtype, case, device):
    batch, tokens, channels, num_slots, _ = case
    slot = slots_of(case, device)
    x = torch.randn(batch, tokens, channels, device=device).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()
    mean, expected = segment_mean(x, slot, num_slots), segment_mean(wide, slot, num_slots)
    assert_close(mean, expected, dtype)
    weight = torch.randn_like(mean)
    (grad,) = torch.autograd.grad(mean, x, weight)
    assert_close(grad, torch.autograd.grad(expected, wide, weight.double())[0], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gather_with_residual_and_its_gradient(dtype, case, device):
    batch, tokens, channels, num_slots, _ = case
    slot = slots_of(case, device)
    y = torch.randn(batch, num_slots, channels, device=device).to(dtype).requires_grad_()
    residual = torch.randn(batch, tokens, channels, device=device).to(dtype).requires_grad_()
    wide = [t.detach().double().requires_grad_() for t in (y, residual)]
    out = gather_segments_add(y, slot, residual)
    expected = gather_segments_add(wide[0], slot, wide[1])
    assert_close(out, expected, dtype)
    # Small weights: the slots of this sum can have a hundred tokens.
    weight = torch.randn_like(out) / 8
    grads = torch.autograd.grad(out, (y, residual), weight)
    for grad, twin in zip(grads, torch.autograd.grad(expected, wide, weight.double()), strict=True):
        assert_close(grad, twin, dtype)


def test_two_runs_give_the_same_bits_with_and_without_the_order_at_hand(device):
    slot, num_slots = slots_of(CASES[-1], device), CASES[-1][3]
    x = torch.randn(1, slot.shape[1], 20, device=device, requires_grad=True)
    runs = []
    for order in (None, segment_order(slot, num_slots)):
        mean = segment_mean(x, slot, num_slots, order)
        out = gather_segments_add(mean.tanh(), slot, x, order)
        runs.append((mean, out, torch.autograd.grad(out.square().sum(), x)[0]))
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize("tokens", [20, 200])
def test_small_slots_sum_the_same_in_one_launch_less(tokens, device):
    # Windows of five, in an order that all samples share though their maps differ.
    slot = torch.arange(tokens, device=device)[None] // 5
    order = segment_order(slot, tokens // 5, 5)
    assert order.largest == 5
    x = torch.randn(2, tokens, 40, device=device, requires_grad=True)
    launched = []
    with watch_launches(lambda name, _: launched.append(name)):
        mean = segment_mean(x, slot, tokens // 5, order)
    assert launched == ["_reduce_kernel"]
    of_any_size = segment_order(slot, tokens // 5)
    assert of_any_size.largest == tokens
    assert torch.equal(mean, segment_mean(x, slot, tokens // 5, of_any_size))
    assert torch.equal(mean, segment_mean(x, slot.expand(2, -1), tokens // 5))
    grads = [torch.autograd.grad(mean.square().sum(), x, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_log_of_sizes_is_its_twin(dtype, case, device):
    slot, num_slots = slots_of(case, device), case[3]
    expected = torch.stack([torch.bincount(s, minlength=num_slots) for s in slot]).double().log()
    for order in (None, segment_order(slot, num_slots)):
        found = log_sizes(slot, num_slots, dtype, order)
        assert_close(found[:, 0, 0], expected, dtype)
        # Rows that begin elsewhere are copied by torch's attention.
        assert order is None or all(stride % 8 == 0 for stride in found.stride()[:-1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_copies(dtype, device):
    slot = random_slots(2, 100, 30, device)
    y = torch.randn(2, 30, 7, device=device).to(dtype).requires_grad_()
    out = gather_segments(y, slot)
    assert torch.equal(out, segment.gather_segments_torch(y, slot))
    weight = torch.randn_like(out) / 8
    (grad,) = torch.autograd.grad(out, y, weight)
    twin = torch.autograd.grad(segment.gather_segments_torch(y.double(), slot), y, weight.double())[
        0
    ]
    assert_close(grad, twin, dtype)


@pytest.mark.parametrize("pair", [(torch.bfloat16, torch.float32), (torch.float32, torch.float16)])
def test_dtypes_promote_as_in_a_sum(pair, device):
    slot = random_slots(1, 40, 9, device)
    y = torch.randn(2, 9, 16, device=device).to(pair[0]).requires_grad_()
    residual = torch.randn(2, 40, 16, device=device).to(pair[1]).requires_grad_()
    out = gather_segments_add(y, slot, residual)
    assert torch.equal(out, residual + segment.gather_segments_torch(y, slot))
    grads = torch.autograd.grad(out.square().sum(), (y, residual))
    assert [grad.dtype for grad in grads] == [*pair]


def test_a_slot_of_thousands_and_many_tokens(device):
    # Long maps are sorted in two steps; half of the tokens are in slots 0 and 1.
    slot = random_slots(1, 16400, 150, device)
    slot = torch.where(slot % 4 < 2, slot, slot % 2)
    slot[0, :150] = torch.arange(150, device=device)
    order = segment_order(slot, 150)
    assert_same(order, segment.segment_order_torch(slot, 150))
    x = torch.randn(1, 16400, 3, device=device)
    mean = segment_mean(x, slot, 150, order)
    assert_close(mean, segment_mean(x.double(), slot, 150), torch.float32)


def test_float16_does_not_overflow(device):
    x = torch.full((1, 200, 2), 6e4, dtype=torch.float16, device=device)
    slot = torch.zeros(1, 200, dtype=torch.int64, device=device)
    assert (segment_mean(x, slot, 1) == 6e4).all()


def test_what_is_not_finite_stays_in_its_slot(device):
    slot = torch.tensor([[0, 1, 0, 2, 1, 0]], device=device)
    x = torch.ones(1, 6, 3, device=device)
    x[0, 1], x[0, 3, 1] = float("nan"), float("inf")
    mean = segment_mean(x, slot, 3)
    assert mean.isfinite().tolist() == [[[True] * 3, [False] * 3, [True, False, True]]]


def test_views_are_accepted(device):
    slot = random_slots(1, 40, 9, device).expand(2, -1)
    x = torch.randn(2, 5, 40, device=device).transpose(1, 2)
    assert_close(segment_mean(x, slot, 9), segment_mean(x.double(), slot, 9), torch.float32)


def test_gradients_have_gradients(device):
    slot = random_slots(1, 20, 6, device)
    x = torch.randn(1, 20, 4, device=device, requires_grad=True)
    results = []
    for t in (x, x.detach().double().requires_grad_()):
        out = gather_segments(segment_mean(t, slot, 6).square(), slot)
        (grad,) = torch.autograd.grad(out.sum(), t, create_graph=True)
        results.append(torch.autograd.grad(grad.square().sum(), t)[0])
    assert_close(results[0], results[1], torch.float32)
