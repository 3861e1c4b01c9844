"""What launching does besides running a kernel."""

import pytest
import torch

from mmseg_tome.ops import layer_norm


@pytest.fixture
def launching(kernels):
    from mmseg_tome.ops import launching

    return launching


def test_small_arithmetic(launching):
    assert [launching.ceil_div(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [launching.next_power_of_2(n) for n in (0, 1, 2, 3, 64, 65)] == [1, 1, 2, 4, 64, 128]


def test_every_launch_can_be_watched(launching, device):
    x, w = torch.randn(2, 3, 8, device=device), torch.ones(8, device=device)
    seen = []
    with launching.watch_launches(lambda name, arguments: seen.append((name, arguments))):
        layer_norm(x, w, w, 1e-6)
    layer_norm(x, w, w, 1e-6)
    ((name, arguments),) = seen
    assert name == "_norm_kernel"
    assert arguments["x"] is x
    assert (arguments["rows"], arguments["channels"], arguments["BLOCK_C"]) == (6, 8, 8)


def test_what_a_compiled_kernel_depends_on(launching):
    specialise = launching._specialisation
    buffer = torch.empty(64)
    assert specialise(buffer) == specialise(torch.nn.Parameter(torch.empty(16)))
    assert specialise(buffer) != specialise(buffer[1:])  # its address is no multiple of 16 bytes
    assert specialise(buffer) != specialise(buffer.half())
    assert len({specialise(n) for n in (1, 2, 3, 16, 32, 2**31, 2**40)}) == 4
    assert specialise(0.5) == specialise(2.0) != specialise(None)


def test_one_compiled_kernel_serves_many_sizes(launching, device):
    # On a GPU the second launch of a kind goes past Triton's own launcher.
    for rows in (3, 5, 3, 16, 1):
        x = torch.randn(1, rows, 24, device=device)
        w, b = torch.randn(24, device=device), torch.randn(24, device=device)
        for _ in range(2):
            expected = torch.nn.functional.layer_norm(x, (24,), w, b, 1e-6)
            torch.testing.assert_close(layer_norm(x, w, b, 1e-6), expected)
