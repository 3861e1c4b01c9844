"""Attention with a bias of each key against its twin."""

import pytest
import torch

from mmseg_tome import ops
from mmseg_tome.ops import attention
from mmseg_tome.ops.launching import watch_launches

pytestmark = pytest.mark.usefixtures("kernels")

# Batch, heads, queries, keys, channels of a head, and of how many samples the bias is.
CASES = [
    (1, 1, 1, 1, 16, 1),
    (2, 3, 70, 37, 32, 2),
    (2, 2, 65, 130, 64, 1),
    (1, 2, 33, 200, 128, 1),
]


def inputs(case, dtype, device):
    """Views of projections, as a model has them."""
    batch, heads, queries, keys, size, biases = case
    q = torch.randn(batch, queries, heads, size, device=device).to(dtype).transpose(1, 2)
    kv = torch.randn(batch, keys, 2, heads, size, device=device).to(dtype)
    pitch = -(-keys // 8) * 8
    bias = torch.randint(1, 5, (biases, pitch), device=device).log().to(dtype)
    return q, *kv.permute(2, 0, 3, 1, 4), bias[:, None, None, :keys]


def launches_of(*args):
    found = []
    with watch_launches(lambda name, _: found.append(name)):
        out = ops.attend(*args)
    return out, found


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_its_twin(case, dtype, device):
    args = inputs(case, dtype, device)
    out, found = launches_of(*args)
    assert found == ["_attend_kernel"]
    assert out.dtype == dtype
    assert out.transpose(1, 2).is_contiguous()
    expected = attention.attend(*(x.double() for x in args))
    error = (out.double() - expected).norm() / expected.norm()
    # Triton's interpreter truncates to bfloat16 instead of rounding.
    assert error < {torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert torch.equal(out, ops.attend(*args))


@torch.no_grad()
def test_equal_keys_merged_are_what_they_were(device):
    q, k, v, _ = inputs((1, 2, 40, 6, 32, 1), torch.float16, device)
    times = torch.tensor([1, 4, 2, 1, 1, 3], device=device)
    bias = times.float().log().half()[None, None, None]
    found = ops.attend(q, k, v, bias)
    expected = attention.attend(q, *(x.repeat_interleave(times, dim=2) for x in (k, v)))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_torch_does_what_the_kernel_is_not_for(device):
    q, k, v, bias = inputs((1, 2, 9, 6, 32, 1), torch.float16, device)
    for args in (
        (q, k, v, bias),  # a gradient may be wanted
        (*(x.float() for x in (q, k, v, bias)),),
    ):
        assert launches_of(*args)[1] == []
    with torch.no_grad():
        assert launches_of(q, k, v)[1] == []
        assert launches_of(*(x.float() for x in (q, k, v, bias)))[1] == []
        assert launches_of(q[..., :24], k[..., :24], v[..., :24], bias)[1] == []
        assert launches_of(q, k, v, bias, 0.5)[1] == []
    q.requires_grad_()
    ops.attend(q, k, v, bias).sum().backward()
    assert q.grad.isfinite().all()


@torch.no_grad()
def test_keys_that_do_not_count_at_all(device):
    # The first block of keys has none that counts; and torch's masks are not biases.
    q, k, v, bias = inputs((1, 2, 20, 100, 32, 1), torch.float16, device)
    bias = bias.clone()
    bias[..., :70] = -torch.inf
    expected = attention.attend(*(x.double() for x in (q, k, v, bias))).half()
    torch.testing.assert_close(ops.attend(q, k, v, bias), expected, rtol=2e-3, atol=2e-3)
    assert launches_of(q, k, v, bias > -1)[1] == []
