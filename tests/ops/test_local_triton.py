"""The kernels of local merging against their twins."""

import pytest
import torch

from mmseg_tome import ops
from mmseg_tome.merging.strategies.neighbour import window_map
from mmseg_tome.ops import local, local_triton, segment
from mmseg_tome.ops.launching import watch_launches

pytestmark = pytest.mark.usefixtures("kernels")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Grid, window, channels.
CASES = [
    ((1, 1), (2, 2), 1),
    ((8, 8), (2, 2), 40),
    ((9, 11), (2, 2), 130),
    ((7, 10), (3, 2), 33),
    ((13, 9), (4, 4), 64),
    ((3, 30), (1, 7), 5),
    ((17, 16), (8, 8), 20),
]


@pytest.fixture
def no_maps_of_before():
    """Maps that were built by another backend have no order."""
    window_map.cache_clear()
    yield
    window_map.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_similarity_is_its_twin(case, dtype, device):
    hw, stride, channels = case
    metric = torch.randn(3, hw[0] * hw[1], channels, device=device).to(dtype)
    metric[1] += 3  # alike
    metric[:, ::5] = 0
    metric[2, ::7] = torch.inf
    found = ops.window_similarity(metric, hw, stride)
    expected = local.window_similarity_torch(metric.double(), hw, stride)
    torch.testing.assert_close(found, expected.float(), rtol=2e-6, atol=2e-6)


@pytest.mark.usefixtures("no_maps_of_before")
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("share", [0, 0.3, 0.8, 1])
def test_assignment_is_its_twin_with_ties(case, share, device):
    hw, stride, _ = case
    there = local.window_counts(hw, stride)
    counts = ops.Counts(*(int(n * share) for n in there))
    similarity = torch.rand(4, sum(there), device=device)
    similarity[1] = similarity[1].round(decimals=1)
    similarity[2] = 0.5
    similarity[3, ::3] = torch.nan
    similarity[3, 1::3] = -torch.inf
    windows = window_map(hw, stride, device)
    slot, order = ops.assign_windows(similarity, *windows[:3:2], counts, hw, stride)
    assert torch.equal(
        slot, local.assign_windows_torch(similarity, windows.slot, counts, hw, stride)
    )
    expected = segment.segment_order_torch(slot, local.slots_left(counts, hw, stride))
    assert torch.equal(order.tokens.expand(4, -1), expected.tokens)
    assert torch.equal(order.offsets, expected.offsets)
    assert order.largest == min(stride[0], hw[0]) * min(stride[1], hw[1])


@pytest.mark.usefixtures("no_maps_of_before")
@pytest.mark.parametrize("hw", [(20, 22), (19, 21)])
def test_more_windows_than_a_program_reads_at_a_time(hw, device, monkeypatch):
    monkeypatch.setattr(local_triton, "BLOCK", 32)
    monkeypatch.setattr(local_triton, "STEP", 16)
    check_assignment(hw, device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes minutes in the interpreter")
@pytest.mark.usefixtures("no_maps_of_before")
@pytest.mark.parametrize("hw", [(512, 512), (131, 1000)])
def test_many_tokens(hw, device):
    check_assignment(hw, device)


def check_assignment(hw, device):
    windows = window_map(hw, (2, 2), device)
    there = local.window_counts(hw, (2, 2))
    similarity = torch.rand(1, sum(there), device=device).round(decimals=3)
    counts = ops.Counts(*(n // 3 for n in there))
    slot, order = ops.assign_windows(similarity, *windows[:3:2], counts, hw, (2, 2))
    assert torch.equal(
        slot, local.assign_windows_torch(similarity, windows.slot, counts, hw, (2, 2))
    )
    assert order.offsets[0, -1] == hw[0] * hw[1]
    assert torch.equal(order.offsets[0, :-1].long(), _begins(slot[0], order.tokens[0]))


def _begins(slot, tokens):
    in_order = slot[tokens.long()]
    return torch.cat([in_order.new_zeros(1), (in_order.diff() > 0).nonzero().flatten() + 1])


@pytest.mark.usefixtures("no_maps_of_before")
def test_merging_takes_three_launches_and_gives_the_same_bits(device):
    from mmseg_tome.merging import LocalMerging

    strategy, hw = LocalMerging(0.5, (2, 2)), (10, 13)
    x = torch.randn(2, 130, 24, device=device, requires_grad=True)
    strategy(x, hw)  # the grid's maps are built once
    runs, launched = [], []
    for _ in range(2):
        launched.clear()
        with watch_launches(lambda name, _: launched.append(name)):
            slots = strategy(x, hw)
            merged = slots.merge(x)
        assert launched == ["_similarity_kernel", "_assign_windows_kernel", "_reduce_kernel"]
        out = slots.unmerge_add(merged.tanh(), x)
        runs.append((slots.slot, merged, out, torch.autograd.grad(out.square().sum(), x)[0]))
    assert all(map(torch.equal, *runs))
    wide = x.detach().double().requires_grad_()
    expected = segment.segment_mean_torch(wide, slots.slot, slots.num_slots)
    torch.testing.assert_close(merged, expected.float())
    out = wide + segment.gather_segments_torch(expected.tanh(), slots.slot)
    (grad,) = torch.autograd.grad(out.square().sum(), wide)
    torch.testing.assert_close(runs[0][3], grad.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.usefixtures("no_maps_of_before")
def test_a_cuda_graph_replays_the_same_bits(device):
    from mmseg_tome.merging import LocalMerging

    strategy, hw = LocalMerging(0.5, (2, 2)), (64, 128)
    x = torch.randn(2, 64 * 128, 64, device=device)
    expected = strategy(x, hw)
    expected = expected.slot.clone(), expected.merge(x)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        slots = strategy(x, hw)
        merged = slots.merge(x)
    graph.replay()
    assert torch.equal(slots.slot, expected[0])
    assert torch.equal(merged, expected[1])
