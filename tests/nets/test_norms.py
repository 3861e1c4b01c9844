"""Norms that add a pending update first."""

import pytest
import torch
from torch import nn

from mmseg_tome.merging import BipartiteMatching
from mmseg_tome.nets.layers import autocast_dtype
from mmseg_tome.nets.norms import ResidualNorm, TokenNorm, add_and_normalise, as_token_norm


@pytest.fixture
def norm():
    norm = as_token_norm(nn.LayerNorm(6, eps=1e-3), ResidualNorm)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def test_alone_it_is_a_layer_norm(norm):
    stock = nn.LayerNorm(6, eps=1e-3)
    stock.load_state_dict(norm.state_dict())
    x = torch.randn(2, 12, 6)
    total, normed = add_and_normalise(norm, x)
    assert total is x
    torch.testing.assert_close(normed, stock(x))
    alone = as_token_norm(stock)
    assert type(alone) is TokenNorm
    torch.testing.assert_close(
        alone(x),
        alone.bias
        + (x - x.mean(-1, True))
        * alone.weight
        / (x.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt(),
    )


@pytest.mark.parametrize("other", [False, True])
def test_an_update_is_unmerged_added_and_normalised(norm, other):
    if other:  # a norm of another kind is called after the sum
        norm = nn.RMSNorm(6)
    x = torch.randn(2, 12, 6)
    slots = BipartiteMatching(0.5)(x, (3, 4))
    merged = slots.merge(x)
    total, normed = add_and_normalise(norm, x, merged, slots)
    torch.testing.assert_close(total, x + slots.unmerge(merged))
    torch.testing.assert_close(normed, add_and_normalise(norm, total)[1])
    total, normed = add_and_normalise(norm, x, x)
    torch.testing.assert_close(total, 2 * x)
    torch.testing.assert_close(normed, add_and_normalise(norm, total)[1])


def test_under_autocast_what_feeds_products_is_narrow_and_the_rest_is_not():
    x, update = torch.randn(1, 4, 6), torch.randn(1, 4, 6).bfloat16()
    assert autocast_dtype(x) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_dtype(x) == torch.bfloat16
        for feeds, dtype in ((False, torch.float32), (True, torch.bfloat16)):
            assert as_token_norm(nn.LayerNorm(6), feeds_matmul=feeds)(x).dtype == dtype
            norm = as_token_norm(nn.LayerNorm(6), ResidualNorm, feeds_matmul=feeds)
            total, normed = norm(x, update)
            assert (total.dtype, normed.dtype) == (torch.float32, dtype)


def test_a_frozen_one_stays_frozen():
    norm = as_token_norm(nn.LayerNorm(4).requires_grad_(False))
    assert not any(p.requires_grad for p in norm.parameters())
