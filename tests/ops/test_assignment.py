"""The slot map against its definition, one source at a time."""

import math
from contextlib import nullcontext

import pytest
import torch

from mmseg_tome.ops import assign_ordered
from mmseg_tome.ops.backend import Export, exporting


def assign_by_hand(similarity, nearest, r, src, dst, tokens):
    """Slots of one sample, all arguments lists."""
    lowest = [-math.inf if math.isnan(s) else s for s in similarity]
    merged = set(sorted(range(len(src)), key=lambda j: (-lowest[j], j))[:r])
    slot = [None] * tokens
    for d, token in enumerate(dst):
        slot[token] = d
    own = len(dst)
    for j, token in enumerate(src):
        if j in merged:
            slot[token] = nearest[j]
        else:
            slot[token] = own
            own += 1
    return slot


@pytest.mark.parametrize("r", [0, 1, 4, 9])
@pytest.mark.parametrize(
    "similarity",
    [
        [0.3, 0.9, -0.2, 0.9, 0.1, 0.5, 0.9, -0.7, 0.0],
        [0.5] * 9,
        [-0.0, 0.0, 0.0, -0.0, 0.1, -0.1, 0.0, -0.0, 0.0],
        [0.3, math.nan, -0.2, 0.9, math.nan, 0.5, 0.1, -0.7, 0.0],
    ],
)
def test_the_best_sources_merge_and_the_others_stay_in_order(similarity, r):
    dst, src = [0, 3, 7], [1, 2, 4, 5, 6, 8, 9, 10, 11]
    nearest = [0, 2, 1, 1, 0, 2, 2, 0, 1]
    slot, _ = assign_ordered(
        torch.tensor([similarity]),
        torch.tensor([nearest]),
        r,
        torch.tensor(src),
        torch.tensor(dst),
        12,
    )
    assert slot.dtype == torch.int64
    assert slot.tolist() == [assign_by_hand(similarity, nearest, r, src, dst, 12)]


@pytest.mark.parametrize("r", [-1, 3])
def test_r_beyond_the_sources_is_refused(r):
    pairs = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"between 0 and the 2 sources, got {r}"):
        assign_ordered(*pairs, r, torch.tensor([1, 2]), torch.tensor([0]), 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_slots_of_half_precision_count_beyond_what_it_can(dtype):
    src, dst = torch.arange(6000), torch.arange(6000, 6003)
    similarity = torch.arange(6000).flip(0).div(6000)[None]
    nearest = torch.ones(1, 6000, dtype=torch.int64)
    slot, _ = assign_ordered(similarity.to(dtype), nearest, 1, src, dst, 6003)
    assert slot[0, 1:6000].tolist() == list(range(3, 6002))


@pytest.mark.parametrize("export", [None, Export(onnx=True)])
def test_slots_are_counted_in_integers(export, monkeypatch):
    """OpenVINO computes floats in bfloat16 by default; CUDA sums no floats deterministically."""
    found, cumsum = [], torch.Tensor.cumsum
    monkeypatch.setattr(
        torch.Tensor, "cumsum", lambda x, dim: found.append(x.dtype) or cumsum(x, dim)
    )
    pairs = torch.rand(1, 4), torch.zeros(1, 4, dtype=torch.int64)
    with exporting(export) if export else nullcontext():
        assign_ordered(*pairs, 2, torch.arange(4), torch.tensor([4]), 5)
    assert found == [torch.int64]
