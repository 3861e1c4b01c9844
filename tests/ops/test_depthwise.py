"""MixFFN's middle, by hand."""

import pytest
import torch

from mmseg_tome.ops import depthwise_gelu


def test_hand_computed():
    x = torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])  # a grid of one row, two channels
    weight = torch.zeros(2, 1, 3, 3)
    weight[0, 0, 1] = torch.tensor([1.0, 10.0, 100.0])  # the token before, itself, the one after
    weight[1, 0, 2, 1] = 5.0  # the row below, which there is none of
    out = depthwise_gelu(x, weight, torch.tensor([0.0, -1.0]), (1, 2))
    torch.testing.assert_close(out[0, :, 0], torch.tensor([210.0, 21.0]))
    torch.testing.assert_close(out[0, :, 1], torch.full((2,), -0.158655), atol=1e-5, rtol=0)


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"a grid of 2x3 tokens does not fit \(1, 5, 4\)"):
        depthwise_gelu(torch.ones(1, 5, 4), torch.ones(4, 1, 3, 3), torch.ones(4), (2, 3))
