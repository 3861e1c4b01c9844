import pytest
import torch

from mmseg_tome.merging import SlotMap


def test_merge_is_the_mean_of_a_slot_and_unmerge_reads_it_back():
    slots = SlotMap(torch.tensor([[0, 1, 0, 2]]), 3)
    x = torch.tensor([[[1.0], [5.0], [3.0], [7.0]], [[0.0], [1.0], [2.0], [3.0]]])
    merged = slots.merge(x)
    assert merged.tolist() == [[[2.0], [5.0], [7.0]], [[1.0], [1.0], [3.0]]]
    assert slots.unmerge(merged).tolist() == [
        [[2.0], [5.0], [2.0], [7.0]],
        [[1.0], [1.0], [1.0], [3.0]],
    ]


def test_identity_map_returns_its_input():
    slots = SlotMap(torch.arange(4)[None], 4)
    x = torch.randn(2, 4, 3)
    assert slots.merge(x) is x
    assert slots.unmerge(x) is x


def test_wrong_number_of_tokens_is_named():
    slots = SlotMap(torch.tensor([[0, 0, 1]]), 2)
    with pytest.raises(ValueError, match="3 tokens, the input has 5"):
        slots.merge(torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match="2 slots, the input 3"):
        slots.unmerge(torch.zeros(1, 3, 2))


def test_sizes_count_the_tokens_of_each_slot():
    slots = SlotMap(torch.tensor([[0, 1, 1, 2, 1], [2, 2, 0, 0, 1]]), 3)
    assert slots.sizes().tolist() == [[1, 3, 1], [2, 1, 2]]
