"""Training by CUDA graphs: on a CPU with captures of our own."""

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmseg_tome.engine.fast_training import (  # isort: skip
    FastTrainingHook,
    GraphedTraining,
    capture_training_graph,
)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return [x * self.weight, x + self.weight]


@pytest.fixture
def backbone():
    backbone = Backbone()
    captured = []

    def capture(module, x):
        captured.append(tuple(x.shape))
        if x.shape[0] == 13:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        assert list(module.parameters()) == list(backbone.parameters())
        return lambda given: ["graph", *module(given)]

    backbone.forward = GraphedTraining(backbone, capture)
    backbone.captured = captured
    return backbone


def test_training_runs_by_a_graph_and_everything_else_does_not(backbone):
    x = torch.ones(2, 3)
    assert backbone(x)[0] == "graph"
    assert backbone(x)[0] == "graph"
    assert backbone.captured == [(2, 3)]
    with torch.no_grad():
        assert len(backbone(x)) == 2
    backbone.eval()
    assert len(backbone(x)) == 2


def test_too_many_shapes_and_what_cannot_be_captured_run_plainly(backbone):
    assert len(backbone(torch.ones(13))) == 2
    assert len(backbone(torch.ones(13))) == 2  # not tried again
    assert backbone(torch.ones(1))[0] == "graph"
    assert len(backbone(torch.ones(2))) == 2
    assert backbone.captured == [(13,), (1,)]


def test_a_cpu_trains_as_without_it():
    backbone = Backbone()
    backbone.forward = GraphedTraining(backbone)
    out = backbone(torch.ones(2))
    sum(out).sum().backward()
    assert backbone.weight.grad.item() == 4


class Runner:
    def __init__(self, backbone, counts=1):
        self.model = nn.Module()
        self.model.backbone = backbone
        self.optim_wrapper = type("Wrapper", (), dict(_accumulative_counts=counts))()


def test_the_hook_is_a_switch():
    for enabled in (False, True):
        runner = Runner(Backbone())
        FastTrainingHook(enabled).before_train(runner)
        assert isinstance(runner.model.backbone.forward, GraphedTraining) == enabled


@pytest.mark.parametrize("obstacle", ["accumulated", "with_cp"])
def test_the_hook_leaves_alone_what_graphs_would_spoil(obstacle):
    runner = Runner(Backbone(), counts=4 if obstacle == "accumulated" else 1)
    runner.model.backbone.with_cp = obstacle == "with_cp"
    FastTrainingHook().before_train(runner)
    assert not isinstance(runner.model.backbone.forward, GraphedTraining)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("preset", [None, "hq", "n2d"])
def test_a_graph_trains_as_plain_passes_do(preset, autocast):
    from mmseg_tome import ops
    from mmseg_tome.models import MixVisionTransformer

    ops.set_backend("auto")
    torch.manual_seed(0)
    sizes = dict(embed_dims=16, num_layers=(1, 2, 1, 1), drop_path_rate=0.0)
    nets = [MixVisionTransformer(**sizes, tome_cfg=preset).cuda().train() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[1].forward = GraphedTraining(nets[1])
    for _ in range(3):
        image = torch.randn(2, 3, 96, 64, device="cuda")
        grads = []
        for net in nets:
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = sum(out.float().square().mean() for out in net(image))
            net.zero_grad()
            loss.backward()
            grads.append([loss.detach(), *(p.grad for p in net.parameters())])
            torch.optim.SGD(net.parameters(), 0.1).step()
        for plain, graphed in zip(*grads, strict=True):
            torch.testing.assert_close(plain, graphed, atol=1e-4, rtol=2e-2 if autocast else 1e-3)
    (captured,) = nets[1].forward.graphs.values()
    assert captured != nets[1].forward.plain


def test_the_capture_leaves_autocast_as_it_was(monkeypatch):
    def fail(*args, **kwargs):
        assert not torch.is_autocast_cache_enabled()
        raise RuntimeError("no GPU")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    with pytest.raises(RuntimeError, match="no GPU"):
        capture_training_graph(Backbone(), torch.ones(1))
    assert torch.is_autocast_cache_enabled()
