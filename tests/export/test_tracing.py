import functools
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_tome import ops
from mmseg_tome.export.tracing import plain_onnx, portable
from mmseg_tome.merging.strategies.bipartite import split_cells
from mmseg_tome.ops.attention import attend_onnx
from mmseg_tome.ops.matching import match_onnx, match_torch

pytestmark = pytest.mark.usefixtures("one_thread")

MIXED = [
    dict(q=dict(mode="n2d", stride=(2, 3)), kv=dict(mode="tome", ratio=0.4)),
    dict(q=dict(mode="tome", ratio=0.3), kv=dict(mode="n1d", stride=3), reuse=2),
]
for_executorch = functools.partial(plain_onnx, executorch=True)
LOCAL = [
    dict(kv=dict(mode="local", ratio=0.5), proportional=True),
    dict(q=dict(mode="local", ratio=0.4, stride=(2, 3)), kv=dict(mode="local", ratio=0.6)),
]


@pytest.mark.parametrize("tome_cfg", [None, "hq", "fast", "fast-prop", "n2d", MIXED, LOCAL])
@pytest.mark.parametrize("task", ["segmentation", "pose"])
@pytest.mark.parametrize("context", [portable, plain_onnx, for_executorch])
def test_twins_are_the_same_functions(tiny, tome_cfg, task, context):
    """In float64, where rounding does not let two candidates of matching change places."""
    _, network = tiny(task, tome_cfg, blocks=2)
    model = network.model.double()
    # The heatmap head's own cast to float32 is left as it is: it widens, never narrows.
    for batch, size in ((1, (97, 131)), (4, (64, 96))):
        images = torch.randn(batch, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            expected = model(images, None, mode="tensor")
            with context():
                got = model(images, None, mode="tensor")
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * expected.abs().max())


def test_an_export_in_one_thread_changes_nothing_in_another(tiny):
    """Neither the backend nor what the other thread's model computes."""
    _, network = tiny("segmentation", "n2d")
    images = torch.randn(1, 3, 64, 96)
    operators = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operators.append(function.name())
            return function(*args, **(kwargs or {}))

    def run() -> list[str]:
        operators.clear()
        with torch.no_grad(), Names():
            network(images)
        return list(operators)

    before, found = run(), []
    with plain_onnx():
        assert run() != before
        thread = threading.Thread(target=lambda: found.append(run()))
        thread.start()
        thread.join()
    assert found == [before]
    assert run() == before


@pytest.mark.parametrize("limit", [1, 700, 10**9])
@pytest.mark.parametrize("weighted", [False, True])
def test_attention_in_parts_is_attention(limit, weighted):
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (17, 5, 5))
    weights = torch.randn(2, 1, 1, 5, dtype=torch.float64) if weighted else None
    expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=weights)
    torch.testing.assert_close(attend_onnx(q, k, v, weights, limit), expected)


def test_a_token_without_direction_is_like_no_other():
    hw = (4, 6)
    split = split_cells(hw, (2, 2), torch.device("cpu"))
    metric = torch.randn(1, 24, 3)
    metric[:, 1] = 0
    for got, expected in zip(
        match_onnx(metric, split.src, split.dst),
        match_torch(metric, split.src, split.dst),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


class Assignment(nn.Module):
    def forward(self, metric: torch.Tensor) -> torch.Tensor:
        split = split_cells((12, 16), (4, 4), metric.device)
        similarity, nearest = ops.match(metric, split.src, split.dst)
        return ops.assign_ordered(similarity, nearest, 100, split.src, split.dst, 192)[0]


class Mean(nn.Module):
    def forward(self, x: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        return ops.segment_mean(x, slot, 820)


def in_onnx_runtime(module: nn.Module, *inputs: torch.Tensor, threads: int = 2):
    """Results of a module that was exported by the twins."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module(*inputs)
    with plain_onnx(), torch.no_grad():
        program = torch.export.export(module, inputs, strict=False)
    model = torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).model_proto
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)[0]


def test_ties_go_to_the_lower_position_in_onnx_runtime_too():
    # Four directions in 192 tokens: nearly every similarity is exactly 1.
    metric = torch.eye(4)[torch.randint(4, (2, 192))] * 2
    run = in_onnx_runtime(Assignment(), metric)
    assert np.array_equal(run(), Assignment()(metric).numpy())


def test_threads_of_onnx_runtime_lose_no_sum():
    """ScatterND, which would be faster, does lose some."""
    x = torch.randn(1, 4096, 160)
    slot = torch.cat([torch.arange(820), torch.randint(820, (3276,))])[None]
    expected = Mean()(x, slot).numpy()
    run = in_onnx_runtime(Mean(), x, slot)
    for _ in range(5):
        np.testing.assert_allclose(run(), expected, atol=1e-5)
