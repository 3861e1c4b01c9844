"""Gradients of the kernels where they are differentiated, transformed or undefined themselves."""

import pytest
import torch
from torch.autograd import forward_ad

from mmseg_tome import ops

pytestmark = pytest.mark.usefixtures("kernels")

TOKENS, CHANNELS, SLOTS = 12, 8, 5


def merging(x, weight, bias):
    slot = torch.arange(TOKENS, device=x.device)[None] * 3 % SLOTS
    mean = ops.segment_mean(x, slot, SLOTS)
    return ops.gather_segments_add(mean * mean, slot, x) + ops.gather_segments(mean, slot)


def norm(x, weight, bias):
    return ops.layer_norm(x, weight.flatten()[:CHANNELS], bias, 1e-6)


def sum_and_norm(x, weight, bias):
    slot = torch.arange(TOKENS, device=x.device)[None] * 3 % SLOTS
    scale = weight.flatten()[:CHANNELS]
    total, normed = ops.add_layer_norm(x, x[:, :SLOTS] * x[:, :SLOTS], slot, scale, bias, 1e-6)
    total, again = ops.add_layer_norm(total, normed * normed, None, scale, bias, 1e-6)
    return total * again


def depthwise(x, weight, bias):
    return ops.depthwise_gelu(x, weight, bias, (3, 4))


EVERY = [merging, norm, sum_and_norm, depthwise]


@pytest.fixture
def inputs(device):
    """Tokens, a 3x3 kernel a channel, and a bias; the weight is also made of the bias."""
    x = torch.randn(2, TOKENS, CHANNELS, device=device)
    weight = torch.randn(CHANNELS, 1, 3, 3, device=device)
    return x, weight, torch.randn(CHANNELS, device=device)


def by_torch(function, *args):
    before = ops.get_backend()
    ops.set_backend("torch")
    try:
        return function(*args)
    finally:
        ops.set_backend(before)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def penalty(function, inputs):
    """Gradients of a gradient penalty: second-order ones."""
    inputs = [t.clone().requires_grad_() for t in inputs]
    # The inputs depend on each other: what one gets must not be counted for the other.
    out = function(inputs[0] * inputs[2], inputs[1] * inputs[2].mean(), inputs[2])
    wanted = inputs[:1] if function is merging else inputs
    grads = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), wanted)


@pytest.mark.parametrize("function", EVERY)
def test_second_order_gradients_are_torchs(function, inputs):
    close(penalty(function, inputs), by_torch(penalty, function, inputs))


@pytest.mark.parametrize("function", EVERY)
def test_second_order_gradients_of_autocast_tensors(function, inputs):
    x, weight, bias = (t.clone().requires_grad_() for t in inputs)
    with torch.autocast(x.device.type, torch.bfloat16):
        out = function(x, weight, bias)
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    # Under autocast torch's own convolution would take half precision for this one, on a GPU.
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    expected = by_torch(penalty_of_x, function, inputs)
    close(second, expected)


def penalty_of_x(function, inputs):
    x = inputs[0].clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(x, *inputs[1:]).square().sum(), x, create_graph=True)
    return torch.autograd.grad(grad.square().sum(), x)[0]


@pytest.mark.parametrize("function", EVERY)
def test_gradients_of_torch_func(function, inputs):
    def loss(*args):
        return function(*args).square().sum()

    def grad(x):
        return torch.func.grad(loss)(x, *inputs[1:])

    close(grad(inputs[0]), by_torch(grad, inputs[0]))


@pytest.mark.parametrize("function", EVERY)
def test_vmap_runs_each_sample_by_itself(function, inputs):
    many = torch.stack([inputs[0], inputs[0].flip(1)])
    each = torch.stack([function(x, *inputs[1:]) for x in many])
    close(torch.func.vmap(lambda x: function(x, *inputs[1:]))(many), each)


@pytest.mark.parametrize("function", EVERY)
def test_forward_mode_tangents_are_not_lost(function, inputs):
    def tangent(x):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            return forward_ad.unpack_dual(function(dual, *inputs[1:])).tangent

    found = tangent(inputs[0])
    assert found is not None
    close(found, by_torch(tangent, inputs[0]))


@pytest.mark.parametrize("function", EVERY)
def test_many_gradients_of_one_forward_pass_at_once(function, inputs):
    x = inputs[0].clone().requires_grad_()
    out = function(x, *inputs[1:])
    grads = torch.randn(3, *out.shape, device=out.device)
    (got,) = torch.autograd.grad(out, x, grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, x, g, retain_graph=True)[0] for g in grads]
    close(got, torch.stack(each))


class NoGradient(torch.autograd.Function):
    """Passes a tensor on, and gives an undefined gradient back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("function", EVERY)
def test_an_undefined_gradient_gives_none(function, inputs):
    x = inputs[0].clone().requires_grad_()
    out = NoGradient.apply(function(x, *inputs[1:]))
    assert torch.autograd.grad(out.sum(), x, allow_unused=True) == (None,)


def test_a_merger_in_a_transform_with_a_map_of_its_own(device):
    every = torch.arange(24, device=device)
    src, dst = every[every % 4 != 0], every[::4]

    def merge(x):
        slot, _ = ops.assign_ordered(*ops.match(x, src, dst), 10, src, dst, 24)
        return ops.gather_segments_add(ops.segment_mean(x, slot, 14), slot, x)

    x = torch.randn(3, 2, 24, 8, device=device)
    close(torch.func.vmap(merge)(x), torch.stack([merge(each) for each in x]))
    traced = torch.jit.trace(merge, x[0], check_trace=False)
    close(traced(x[1]), merge(x[1]))


def test_a_mode_sees_a_kernel_as_one_operation(inputs):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.name())
            return function(*args, **(kwargs or {}))

    names = []
    with Names():
        depthwise(*inputs)
    assert names == ["mmseg_tome::depthwise_gelu"]
