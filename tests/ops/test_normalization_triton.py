"""The norm kernels against their twins in float64, forward and backward."""

import pytest
import torch

from mmseg_tome.ops import add_layer_norm, layer_norm, normalization

pytestmark = pytest.mark.usefixtures("kernels")

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
SHAPES = [(2, 35, 20), (1, 99, 70), (3, 17, 320), (1, 1, 2), (1, 5, 600)]


def random(*shape, dtype, device):
    return torch.randn(*shape, device=device).to(dtype).requires_grad_()


def assert_close(ours, twins, tolerance):
    for one, twin in zip(ours, twins, strict=True):
        error = (one.double() - twin).norm() / twin.norm().clamp(1e-6)
        assert error < tolerance, f"off by {error:.1e}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_layer_norm_is_its_twin(dtype, shape, device):
    kind = dict(dtype=dtype, device=device)
    inputs = [random(*s, **kind) for s in (shape, shape[2:], shape[2:])]
    grad = torch.randn(shape, device=device).to(dtype)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    out, twin = layer_norm(*inputs, 1e-6), normalization.layer_norm(*wide, 1e-6)
    assert out.dtype == dtype
    grads = torch.autograd.grad(out, inputs, grad)
    twin_grads = torch.autograd.grad(twin, wide, grad.double())
    # Two channels are -1 and 1 whatever they were: no gradient but rounding.
    skip = 1 if shape[2] == 2 else 0
    assert_close((out, *grads[skip:]), (twin, *twin_grads[skip:]), TOLERANCE[dtype])
    assert all(
        map(torch.equal, grads, torch.autograd.grad(layer_norm(*inputs, 1e-6), inputs, grad))
    )


@pytest.mark.parametrize("merged", ["no map", "map of each sample", "map of all"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_add_layer_norm_is_its_twin(dtype, shape, merged, device):
    batch, tokens, channels = shape
    slot, slots = None, tokens
    if merged != "no map":
        slots = tokens // 2
        rows = batch if merged == "map of each sample" else 1
        rest = torch.randint(slots, (rows, tokens - slots))
        slot = torch.cat([torch.arange(slots).expand(rows, -1), rest], dim=1).to(device)
    kind = dict(dtype=dtype, device=device)
    x, y = random(*shape, **kind), random(batch, slots, channels, **kind)
    affine = [random(channels, **kind) for _ in range(2)]
    grads = [torch.randn(shape, device=device).to(dtype) for _ in range(2)]
    wide = [t.detach().double().requires_grad_() for t in (x, y, *affine)]
    out = add_layer_norm(x, y, slot, *affine, 1e-6)
    twin = normalization.add_layer_norm(*wide[:2], slot, *wide[2:], 1e-6)
    ours = torch.autograd.grad(out, (x, y, *affine), grads)
    twins = torch.autograd.grad(twin, wide, [g.double() for g in grads])
    assert_close((*out, *ours), (*twin, *twins), TOLERANCE[dtype])


def test_either_result_may_be_unused(device):
    x, y, w, b = (
        random(*s, dtype=torch.float32, device=device) for s in ((1, 6, 8),) * 2 + ((8,),) * 2
    )
    for which in (0, 1):
        ours = torch.autograd.grad(add_layer_norm(x, y, None, w, b, 1e-6)[which].sum(), (x, y))
        wide = [x.double(), y.double(), None, w.double(), b.double()]
        twins = normalization.add_layer_norm(*wide, 1e-6)[which].sum()
        torch.testing.assert_close(ours, torch.autograd.grad(twins, (x, y)), atol=1e-5, rtol=1e-4)


def test_a_wide_sum_of_narrow_updates(device):
    x = random(1, 9, 40, dtype=torch.float32, device=device)
    y = random(1, 9, 40, dtype=torch.bfloat16, device=device)
    w, b = (random(40, dtype=torch.float32, device=device) for _ in range(2))
    total, normed = add_layer_norm(x, y, None, w, b, 1e-6, torch.bfloat16)
    assert (total.dtype, normed.dtype) == (torch.float32, torch.bfloat16)
    grads = torch.autograd.grad((total, normed), (x, y, w), (torch.ones_like(total), normed))
    assert [g.dtype for g in grads] == [torch.float32, torch.bfloat16, torch.float32]
    assert torch.equal(total, x + y)


def test_float16_near_its_limit(device):
    x = (torch.randn(1, 7, 96, device=device).clamp(-1, 1) * 6.5e4).half()
    w, b = torch.ones(96, device=device).half(), torch.zeros(96, device=device).half()
    twin = normalization.layer_norm(x.double(), w.double(), b.double(), 1e-6)
    torch.testing.assert_close(layer_norm(x, w, b, 1e-6).double(), twin, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_shift_is_its_twins_with_and_without_gradients(dtype, device):
    inputs = [random(*s, dtype=dtype, device=device) for s in ((2, 9, 40), (40,), (40,), (40,))]
    x, weight, bias, shift = inputs
    wide = [t.detach().double().requires_grad_() for t in inputs]
    twin = normalization.layer_norm(*wide[:3], 1e-6, None, wide[3])
    with torch.no_grad():
        assert_close([layer_norm(x, weight, bias, 1e-6, None, shift)], [twin], TOLERANCE[dtype])
    out = layer_norm(x, weight, bias, 1e-6, None, shift)
    grad = torch.randn(out.shape, device=device).to(dtype)
    twins = torch.autograd.grad(twin, wide, grad.double())
    assert_close(torch.autograd.grad(out, inputs, grad), twins, 3 * TOLERANCE[dtype])
