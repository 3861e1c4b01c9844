"""Layer norm and the sum before it, by hand."""

import pytest
import torch

from mmseg_tome.ops import add_layer_norm, layer_norm


@pytest.fixture
def affine():
    return torch.tensor([1.0, 2.0]), torch.tensor([0.0, 10.0])


def test_hand_computed(affine):
    x = torch.tensor([[[1.0, 3.0], [-5.0, 5.0]]])  # each token is -1, 1 once normalised
    expected = torch.tensor([[[-1.0, 12.0], [-1.0, 12.0]]])
    torch.testing.assert_close(layer_norm(x, *affine, 0.0), expected)
    # eps adds to the variance, 1 for the first token: half of the way
    assert layer_norm(x, *affine, 3.0)[0, 0].tolist() == [-0.5, 11.0]


def test_the_sum_is_what_is_normalised(affine):
    x = torch.zeros(1, 3, 2)
    update = torch.tensor([[[1.0, 3.0], [4.0, 2.0]]])
    total, normed = add_layer_norm(x + 1, update, torch.tensor([[0, 1, 0]]), *affine, 0.0)
    assert total.tolist() == [[[2.0, 4.0], [5.0, 3.0], [2.0, 4.0]]]
    torch.testing.assert_close(normed, torch.tensor([[[-1.0, 12.0], [1.0, 8.0], [-1.0, 12.0]]]))
    same, _ = add_layer_norm(x + 1, update[:, [0, 1, 0]], None, *affine, 0.0)
    assert torch.equal(same, total)


def test_the_result_can_be_narrower_than_the_sum(affine):
    total, normed = add_layer_norm(
        torch.ones(1, 2, 2), torch.ones(1, 2, 2).half(), None, *affine, 1.0, torch.bfloat16
    )
    assert (total.dtype, normed.dtype) == (torch.float32, torch.bfloat16)


def test_what_does_not_fit_is_refused(affine):
    x = torch.ones(2, 4, 2)
    with pytest.raises(ValueError, match=r"an update \(2, 3, 2\) does not fit \(2, 4, 2\)"):
        add_layer_norm(x, x[:, :3], None, *affine, 0.0)
    with pytest.raises(ValueError, match=r"slot map \(2, 3\) does not fit"):
        add_layer_norm(x, x, torch.zeros(2, 3, dtype=torch.int64), *affine, 0.0)
