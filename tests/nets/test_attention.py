import pytest
import torch

from mmseg_tome.merging import Identity, NeighbourMerging2D, StageMerging
from mmseg_tome.nets.attention import EfficientAttention

GRID = (5, 7)  # windows of 4, 2 and 1 tokens


def attention(proportional=False, **options) -> EfficientAttention:
    torch.manual_seed(0)
    merging = StageMerging(Identity(), NeighbourMerging2D((2, 2)), proportional=proportional)
    return EfficientAttention(8, 2, merging=merging, **options).double().eval()


def patchwork() -> torch.Tensor:
    """Tokens that are equal within each window, `[2, 35, 8]`: merging them loses nothing."""
    y, x = torch.meshgrid(*(torch.arange(n) // 2 for n in GRID), indexing="ij")
    windows = torch.randn(2, 12, 8, dtype=torch.float64)
    return windows[:, (4 * y + x).flatten()]


@torch.no_grad()
def test_equal_keys_count_for_all_that_they_stand_for_if_that_is_asked_for():
    tokens = patchwork()
    weighted, slots = attention(proportional=True)(tokens, GRID)
    counted_once, _ = attention()(tokens, GRID)
    unmerged = attention()
    unmerged.kv_merger = EfficientAttention(8, 2).kv_merger
    expected, _ = unmerged(tokens, GRID)
    assert slots.kv.num_slots == 12
    torch.testing.assert_close(weighted, expected)
    assert (counted_once - expected).abs().max() > 1e-3


@pytest.mark.parametrize("training", [False, True])
def test_weights_of_keys_have_gradients_and_any_dtype(training):
    module = attention(proportional=True, attn_drop=0.1).float().train(training)
    tokens = patchwork().float().requires_grad_()
    out, _ = module(tokens, GRID)
    out.sum().backward()
    assert tokens.grad.isfinite().all()
    half, _ = module.bfloat16().eval()(tokens.detach().bfloat16(), GRID)
    assert half.dtype == torch.bfloat16
