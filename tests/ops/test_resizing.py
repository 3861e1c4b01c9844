"""The sum of resized maps, by hand."""

import torch

from mmseg_tome.ops import add_resized


def test_hand_computed():
    x = torch.zeros(1, 1, 1, 4)
    small = torch.tensor([[[[0.0, 8.0]]]])
    # Half-pixel centres: a quarter and three quarters of the way.
    assert add_resized(x, [small], relu=False).flatten().tolist() == [0, 2, 6, 8]
    assert add_resized(x - 3, [small], relu=True).flatten().tolist() == [0, 0, 3, 5]
    assert add_resized(x + 1, [small, small], relu=False).flatten().tolist() == [1, 5, 13, 17]
    assert not x.any()
