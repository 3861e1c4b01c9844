"""The resizing kernel against its twin in float64."""

import pytest
import torch

from mmseg_tome.ops import add_resized

pytestmark = pytest.mark.usefixtures("kernels")

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize(
    ("batch", "channels", "hw"),
    [(2, 5, (6, 9)), (1, 70, (3, 33)), (1, 130, (5, 2)), (1, 1, (1, 1))],
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_it_is_its_twin(dtype, batch, channels, hw, count, device):
    x = torch.randn(batch, channels, *hw, device=device).to(dtype)
    sizes = [(1, 1), (hw[0] // 2 or 1, hw[1] // 3 or 1), hw, (hw[0], 1)][:count]
    maps = [torch.randn(batch, channels, *size, device=device).to(dtype) for size in sizes]
    for relu in (False, True):
        with torch.no_grad():
            out = add_resized(x, maps, relu)
        twin = add_resized(x.double(), [m.double() for m in maps], relu)
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert (out.double() - twin).norm() <= TOLERANCE[dtype] * twin.norm() + 1e-30


def test_where_gradients_are_computed_torch_does_it(device):
    x = torch.randn(1, 3, 4, 4, device=device, requires_grad=True)
    small = torch.randn(1, 3, 2, 2, device=device, requires_grad=True)
    grads = torch.autograd.grad(add_resized(x, [small], relu=False).sum(), (x, small))
    torch.testing.assert_close(grads[0], torch.ones_like(x))
    torch.testing.assert_close(grads[1], torch.full_like(small, 4.0))
