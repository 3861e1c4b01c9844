"""MixFFN in bands of rows is the same function as MixFFN at once."""

import pytest
import torch

from mmseg_tome.nets import layers
from mmseg_tome.nets.layers import DropPath, MixFFN, linear


@pytest.fixture
def ffn():
    return MixFFN(6, 24, torch.nn.GELU(), drop_rate=0.1).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hw", [(1, 7), (9, 5), (16, 3), (13, 11)])
@pytest.mark.parametrize("rows", [1, 2, 4, 5])
@torch.inference_mode()
def test_bands_equal_the_whole(ffn, dtype, hw, rows):
    ffn, x = ffn.to(dtype), torch.randn(3, hw[0] * hw[1], 6, dtype=dtype)
    banded, whole = ffn.forward_in_bands(x, hw, rows), ffn(x, hw)
    assert banded.shape == whole.shape
    torch.testing.assert_close(banded, whole)


@torch.inference_mode()
def test_only_a_hidden_layer_that_leaves_the_cache_is_cut(ffn, monkeypatch):
    called = []
    real = MixFFN.forward_in_bands
    monkeypatch.setattr(
        MixFFN, "forward_in_bands", lambda *args: called.append(args[3]) or real(*args)
    )
    x, hw = torch.randn(1, 64, 6), (8, 8)
    ffn(x, hw)
    assert called == []
    monkeypatch.setattr(layers, "BAND_BYTES", 3 * 8 * 24 * 4)  # three rows in float32
    ffn(x, hw)
    assert called == [3]
    monkeypatch.setattr(layers, "BAND_BYTES", 1)
    ffn(x, hw)
    assert called == [3, 1]


def test_training_and_gradients_see_the_whole(ffn, monkeypatch):
    monkeypatch.setattr(layers, "BAND_BYTES", 1)
    monkeypatch.setattr(MixFFN, "forward_in_bands", None)
    x = torch.randn(1, 64, 6, requires_grad=True)
    ffn(x, (8, 8)).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        ffn.train()(x, (8, 8))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_large_product_is_the_same_as_a_convolution(monkeypatch, batch, bias):
    x, weight = torch.randn(batch, 700, 48), torch.randn(80, 48)
    bias = torch.randn(80) if bias else None
    asked = []
    real = torch.nn.functional.conv2d
    monkeypatch.setattr(layers.F, "conv2d", lambda *args: asked.append(1) or real(*args))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    out = linear(x, weight, bias)
    assert len(asked) == torch.backends.mkldnn.is_available()
    assert out.is_contiguous()
    torch.testing.assert_close(
        out, torch.nn.functional.linear(x, weight, bias), atol=1e-4, rtol=1e-4
    )
    for small_or_other in (
        lambda: linear(x[:, :9], weight),
        lambda: linear(x.double(), weight.double()),
        lambda: linear(x.bfloat16(), weight.bfloat16()),
    ):
        small_or_other()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert len(asked) == torch.backends.mkldnn.is_available()


def test_where_gradients_are_computed_a_product_is_a_product(monkeypatch):
    monkeypatch.setattr(layers.F, "conv2d", None)
    x = torch.randn(1, 700, 48, requires_grad=True)
    linear(x, torch.randn(80, 48)).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("drop_prob", [0.0, 0.5, 1.0])
def test_drop_path_drops_or_scales_whole_samples(drop_prob):
    x = torch.ones(2000, 3, 2, requires_grad=True)
    out = DropPath(drop_prob).train()(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad, out)  # also where all is dropped: 0, not 0 / 0
    kept = out[:, 0, 0]
    assert torch.equal(out, kept[:, None, None].expand_as(out))
    assert set(kept.tolist()) <= {0.0, 1 / (1 - drop_prob) if drop_prob < 1 else 0.0}
    assert abs((kept == 0).float().mean() - drop_prob) < 0.05


@pytest.mark.parametrize("drop_prob", [-0.1, 1.1, float("nan")])
def test_drop_path_takes_a_probability(drop_prob):
    with pytest.raises(ValueError, match="between 0 and 1"):
        DropPath(drop_prob)
