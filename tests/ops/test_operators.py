"""What torch asks of operators: schemas, shapes and gradients that its compilers can rely on."""

import os
import subprocess
import sys

import pytest
import torch

from mmseg_tome import ops
from mmseg_tome.ops import backend


def chain(x, src, dst, r):
    """Everything that one merger does, and a gather without a residual."""
    tokens = x.shape[1]
    slot, order = ops.assign_ordered(*ops.match(x, src, dst), r, src, dst, tokens)
    mean = ops.segment_mean(x, slot, tokens - r, order)
    return ops.gather_segments_add(mean.tanh(), slot, x, order) + ops.gather_segments(mean, slot)


@pytest.fixture
def tokens(device):
    x = torch.randn(2, 30, 8, device=device, requires_grad=True)
    every = torch.arange(30, device=device)
    return x, every[every % 4 != 0], every[::4]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiler_sees_one_graph_with_the_same_results(tokens, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for function in (chain, compiled):
        out = function(*tokens, 15)
        results.append((out, torch.autograd.grad(out.square().sum(), tokens[0])[0]))
    assert all(map(torch.equal, *results))


@pytest.mark.usefixtures("kernels")
def test_operators_are_what_they_say(tokens):
    from mmseg_tome.ops import assignment_triton, attention_triton, matching_triton, segment_triton
    from mmseg_tome.ops.local_triton import assign_windows, window_similarity

    x, src, dst = tokens
    pairs = ops.match(x, src, dst)
    slot, _ = ops.assign_ordered(*pairs, 15, src, dst, 30)
    order = ops.segment_order(slot, 15)
    residual = torch.randn_like(x).half().requires_grad_()
    y = torch.randn_like(x[:, :15]).requires_grad_()
    bias, alike = torch.rand(1, 1, 1, 30, device=x.device), torch.rand(2, 6, device=x.device)
    for operator, arguments in (
        (matching_triton.match, (x.detach(), src, dst, False)),
        (assignment_triton.assign_ordered, (*pairs, 15, src, dst, 30)),
        (segment_triton.segment_order, (slot, 15)),
        (segment_triton.reduce, (x, slot, *order, True)),
        (segment_triton.expand, (y, slot, None, None, None, residual, False)),
        (attention_triton.attend, (*torch.randn(3, 2, 2, 30, 16, device=x.device), bias)),
        (segment_triton.log_sizes, (order.offsets, torch.float16)),
        (window_similarity, (x.detach(), (5, 6), (2, 3))),
        (assign_windows, (alike, (2, 0, 1, 0), 18, (5, 6), (2, 3))),
    ):
        torch.library.opcheck(operator.registered, arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.usefixtures("kernels")
def test_a_cuda_graph_replays_the_same_bits(tokens):
    expected = chain(*tokens, 15)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        out = chain(*tokens, 15)
    graph.replay()
    assert torch.equal(out, expected)


@pytest.mark.skipif(not backend.HAVE_TRITON, reason="Triton is not installed")
def test_kernels_compile_for_a_gpu_that_is_not_there(repo):
    # The interpreter accepts what the compiler refuses.
    tool = [sys.executable, repo / "tools/check_kernels.py", "--compile", "90", "--tiny"]
    environment = os.environ | {"PYTHONPATH": str(repo)}
    done = subprocess.run(tool, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "20 kernels compile for compute capability 9.0" in done.stdout
