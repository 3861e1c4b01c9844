"""The depthwise kernels against their twin in float64, forward and backward."""

import importlib

import pytest
import torch

from mmseg_tome.ops import depthwise_gelu
from mmseg_tome.ops.depthwise import depthwise_gelu_torch

triton = pytest.importorskip("triton")
depthwise_triton = importlib.import_module("mmseg_tome.ops.depthwise_triton")
short_gelu = depthwise_triton._short_gelu

pytestmark = pytest.mark.usefixtures("kernels")

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


@pytest.mark.parametrize(
    ("batch", "hw", "channels"),
    [(2, (5, 7), 20), (1, (33, 3), 70), (1, (1, 1), 1), (1, (17, 4), 130), (1, (1, 9), 8)],
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_it_is_its_twin(dtype, batch, hw, channels, device):
    shapes = (batch, hw[0] * hw[1], channels), (channels, 1, 3, 3), (channels,)
    inputs = [torch.randn(s, device=device).to(dtype).requires_grad_() for s in shapes]
    grad = torch.randn(shapes[0], device=device).to(dtype)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    out, twin = depthwise_gelu(*inputs, hw), depthwise_gelu_torch(*wide, hw)
    grads = torch.autograd.grad(out, inputs, grad)
    twin_grads = torch.autograd.grad(twin, wide, grad.double())
    assert [t.dtype for t in (out, *grads)] == [dtype] * 4
    for one, expected in zip((out, *grads), (twin, *twin_grads), strict=True):
        assert one.shape == expected.shape
        # GELU is exact to 1e-7, not relative to values that happen to be near zero.
        limit = TOLERANCE[dtype] * expected.norm() + 1e-6 * expected.numel() ** 0.5
        assert (one.double() - expected).norm() < limit
    again = torch.autograd.grad(depthwise_gelu(*inputs, hw), inputs, grad)
    assert all(map(torch.equal, grads, again))


def test_gelu_is_exact_far_from_zero(device):
    x = torch.linspace(-9, 9, 181, device=device)[None, :, None]
    weight = torch.zeros(1, 1, 3, 3, device=device)
    weight[0, 0, 1, 1] = 1
    out = depthwise_gelu(x, weight, torch.zeros(1, device=device), (181, 1))
    expected = torch.nn.functional.gelu(x.double())
    torch.testing.assert_close(out.double(), expected, atol=5e-7, rtol=1e-6)


@triton.jit
def every_gelu(x, out):
    i = triton.language.arange(0, 2**16)
    triton.language.store(out + i, short_gelu(triton.language.load(x + i)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_short_gelu_is_exact_to_a_part_of_a_unit_of_half_precision(dtype, device):
    every = torch.arange(-(2**15), 2**15, device=device).to(torch.int16).view(dtype)
    finite = every.isfinite()
    x = torch.where(finite, every, 0).float()
    out = torch.empty_like(x)
    every_gelu[(1,)](x, out)
    expected = torch.special.ndtr(x.double()) * x.double()
    info = torch.finfo(dtype)
    unit = info.eps * 2.0 ** expected.abs().clamp(info.tiny).log2().floor()
    part = 0.18 if dtype == torch.float16 else 0.025
    assert ((out.double() - expected).abs() <= part * unit + 2**-27).all()


def test_weights_may_be_wider_than_tokens(device):  # under autocast
    x = torch.randn(1, 12, 8, device=device).bfloat16().requires_grad_()
    weight = torch.randn(8, 1, 3, 3, device=device, requires_grad=True)
    bias = torch.randn(8, device=device, requires_grad=True)
    out = depthwise_gelu(x, weight, bias, (3, 4))
    grads = torch.autograd.grad(out.float().sum(), (x, weight, bias))
    assert out.dtype == torch.bfloat16
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32, torch.float32]


def test_the_tokens_may_be_a_view(device):
    x = torch.randn(2, 8, 12, device=device).transpose(1, 2)
    weight, bias = torch.randn(8, 1, 3, 3, device=device), torch.randn(8, device=device)
    expected = depthwise_gelu_torch(x, weight, bias, (3, 4))
    torch.testing.assert_close(depthwise_gelu(x, weight, bias, (3, 4)), expected)


def test_a_bias_that_is_a_view(device):
    x, weight = torch.ones(1, 4, 16, device=device), torch.ones(16, 1, 3, 3, device=device)
    for bias in (torch.arange(32.0, device=device)[::2], torch.zeros(1, device=device).expand(16)):
        found = depthwise_gelu(x, weight, bias, (2, 2))
        torch.testing.assert_close(found, depthwise_gelu_torch(x, weight, bias, (2, 2)))
