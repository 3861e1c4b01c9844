"""Acceleration keeps the outputs, per input shape, and falls back where nothing can be captured."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope

from mmseg_tome import compat
from mmseg_tome.engine import FastInferenceHook
from mmseg_tome.inference.acceleration import GraphedFunction, accelerate
from mmseg_tome.registry import MODELS

# As wide as B0: on processors with AMX the oneDNN of torch 2.11 gets bfloat16 convolutions of fewer
# than 32 channels wrong where their stride is their kernel, 4 or 8.
BACKBONE = dict(
    type="mmseg_tome.MixVisionTransformer", embed_dims=32, num_layers=[1, 1, 1, 1],
    num_heads=[1, 2, 5, 8], tome_cfg="hq",
)  # fmt: skip
LEVELS = dict(in_channels=[32, 64, 160, 256], channels=16, norm_cfg=dict(type="BN"))
HEADS = dict(
    mmseg=dict(type="mmseg_tome.SegformerHead", in_index=[0, 1, 2, 3], num_classes=5, **LEVELS),
    mmpose=dict(type="mmseg_tome.SegformerHeatmapHead", out_channels=5, **LEVELS),
)


@pytest.fixture(params=HEADS)
def model(request):
    """A small network with batch norms whose statistics matter, in a wrapper like a detector's."""
    if not compat.has(request.param):
        pytest.skip(f"needs {request.param}")
    with DefaultScope.overwrite_default_scope(request.param):
        backbone, head = MODELS.build(dict(BACKBONE)), MODELS.build(dict(HEADS[request.param]))
    for norm in head.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    network = torch.nn.Module()
    network.backbone = backbone
    setattr(network, "decode_head" if request.param == "mmseg" else "head", head)
    return network.eval()


def run(model, image):
    with torch.no_grad():
        return getattr(model, "decode_head", getattr(model, "head", None))(model.backbone(image))


def record_and_replay(function, tensors):
    """What a CUDA graph does: run again on the same memory, into the same memory."""
    kept = [out.clone() for out in function(*tensors)]

    def replay():
        for own, new in zip(kept, function(*tensors), strict=True):
            own.copy_(new)
        return kept

    return replay


@pytest.mark.parametrize("graphs", [True, False])
def test_outputs_stay_equal(model, graphs):
    fast = copy.deepcopy(model)
    accelerate(fast, graphs=graphs)
    for size in ((64, 96), (97, 71)):
        image = torch.randn(1, 3, *size)
        assert torch.equal(run(fast, image), run(model, image))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_and_gives_float32(model, dtype):
    fast, image = copy.deepcopy(model), torch.randn(1, 3, 64, 96)
    accelerate(fast, dtype=dtype)
    out, expected = run(fast, image), run(model, image)
    assert out.dtype == torch.float32
    assert (out - expected).norm() / expected.norm() < 0.1
    half = getattr(torch, dtype)
    assert fast.backbone.layers[0][0].projection.weight.dtype == half
    assert fast.backbone(image)[0].dtype == half  # handed on without a cast
    norms = [m for m in fast.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.weight.dtype for norm in norms} == {torch.float32}


def test_what_cannot_be_accelerated_is_refused(model):
    with pytest.raises(ValueError, match="dtype must be None, float16 or bfloat16, got 'int8'"):
        accelerate(model, dtype="int8")
    with pytest.raises(ValueError, match="Linear has no backbone with a head"):
        accelerate(torch.nn.Linear(2, 2))


class TestGraphedFunction:
    @pytest.fixture
    def calls(self):
        return []

    @pytest.fixture
    def graphed(self, calls):
        def function(pair, factor):
            calls.append(tuple(pair[0].shape))
            return [pair[0] * factor, dict(total=pair[1] + factor)]

        return GraphedFunction(function, max_shapes=2, capture=record_and_replay)

    @torch.no_grad()
    def test_results_are_those_of_the_function_and_stay(self, graphed):
        a, b, f = torch.randn(3), torch.randn(2), torch.tensor(2.0)
        first = graphed((a, b), f)
        second = graphed((a + 1, b), f)
        assert torch.equal(first[0], a * 2)
        assert torch.equal(second[0], (a + 1) * 2)
        assert torch.equal(second[1]["total"], b + 2)

    @torch.no_grad()
    def test_one_capture_a_shape_and_the_oldest_goes(self, graphed):
        def give(n):
            graphed((torch.ones(n), torch.ones(1)), torch.tensor(1.0))
            return [key[0][0][0] for key in graphed.graphs]

        assert give(3) == [3]
        assert give(3) == [3]
        assert give(4) == [3, 4]
        assert give(3) == [4, 3]
        assert give(5) == [4, 3]  # ever new shapes are not worth a capture
        assert give(6) == [4, 3]
        assert give(5) == [3, 5]

    @torch.no_grad()
    def test_what_cannot_be_captured_runs_plainly(self, calls, monkeypatch):
        said = []
        monkeypatch.setattr(
            "mmseg_tome.inference.acceleration.print_log", lambda m, _: said.append(m)
        )

        def refuse(function, tensors):
            calls.append("refused")
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        graphed = GraphedFunction(torch.neg, capture=refuse)
        for _ in range(2):
            assert graphed(torch.ones(2)).tolist() == [-1, -1]
        assert calls == ["refused"]
        assert said == [
            "inputs [(2,)] run without a CUDA graph: operation not permitted when stream is "
            "capturing"
        ]

    def test_gradients_flow_as_if_it_were_not_there(self, graphed):
        a = torch.ones(2, requires_grad=True)
        graphed((a, torch.ones(1)), torch.tensor(3.0))[0].sum().backward()
        assert a.grad.tolist() == [3, 3]
        assert not graphed.graphs


@pytest.mark.parametrize("enabled", [True, False])
def test_the_hook_is_the_switch(model, enabled):
    runner = SimpleNamespace(model=model)
    FastInferenceHook(enabled=enabled).before_test(runner)
    assert isinstance(model.backbone.forward, GraphedFunction) is enabled


def test_our_configs_have_it_where_the_documentation_says(repo):
    from mmengine.config import Config

    for name in ("segformerpp_fast_cityscapes", "segformerpp_fast_coco"):
        cfg = Config.fromfile(repo / "configs" / f"{name}.py", import_custom_modules=False)
        assert cfg.custom_hooks[2] == dict(type="mmseg_tome.FastInferenceHook", enabled=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@torch.no_grad()
def test_cuda_graphs_give_the_same_outputs(model):
    model = model.cuda()
    fast = copy.deepcopy(model)
    accelerate(fast)
    for size in ((64, 96), (97, 71), (64, 96)):
        image = torch.randn(1, 3, *size, device="cuda")
        torch.testing.assert_close(run(fast, image), run(model, image), rtol=1e-4, atol=1e-4)
    assert len(fast.backbone.forward.graphs) == 2
    assert None not in fast.backbone.forward.graphs.values()
