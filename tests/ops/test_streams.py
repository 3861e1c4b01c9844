"""Independent work side by side."""

import pytest
import torch

from mmseg_tome.ops.streams import side_by_side


def test_without_a_graph_one_comes_after_the_other():
    order = []
    both = side_by_side(
        lambda: order.append(1) or "a", lambda: order.append(2) or "b", torch.ones(1)
    )
    assert both == ("a", "b")
    assert order == [1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_in_a_graph_both_branches_are_joined():
    x = torch.randn(1000, 1000, device="cuda")
    with torch.no_grad():
        x @ x
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = x + 1
            one, two = side_by_side(lambda: y @ y, lambda: y * 2, x)
            out = one + two
    for _ in range(3):
        x.normal_()
        graph.replay()
        torch.testing.assert_close(out, (x + 1) @ (x + 1) + (x + 1) * 2)
