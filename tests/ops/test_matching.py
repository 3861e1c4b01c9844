import pytest
import torch
import torch.nn.functional as F

from mmseg_tome.ops import match


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_match_is_the_arg_max_of_cosine_similarity(dtype):
    metric = torch.randn(3, 40, 7, dtype=dtype)
    dst, src = torch.arange(0, 40, 4), torch.tensor([n for n in range(40) if n % 4])
    similarity, nearest = match(metric, src, dst)
    all_pairs = F.cosine_similarity(metric[:, src, None], metric[:, None, dst], dim=-1)
    torch.testing.assert_close(similarity, all_pairs.amax(-1))
    assert torch.equal(nearest, all_pairs.argmax(-1))


def test_the_first_of_equal_destinations_wins():
    _, nearest = match(torch.ones(1, 6, 2), torch.tensor([1, 3, 5]), torch.tensor([0, 2, 4]))
    assert nearest.tolist() == [[0, 0, 0]]


def test_a_zero_token_is_similar_to_nothing():
    metric = torch.randn(1, 4, 3)
    metric[0, 1] = 0
    similarity, _ = match(metric, torch.tensor([1, 3]), torch.tensor([0, 2]))
    assert similarity[0, 0] == 0
    assert similarity.isfinite().all()
