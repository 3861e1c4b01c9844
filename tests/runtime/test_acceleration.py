"""Acceleration keeps the outputs, per input shape, and falls back where nothing can be captured."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import BaseLoop

from mmseg_tome import compat
from mmseg_tome.hooks import FastInferenceHook
from mmseg_tome.registry import MODELS
from mmseg_tome.runtime.acceleration import accelerate, why_eager
from mmseg_tome.runtime.graphs import graphed_parts
from mmseg_tome.runtime.precision import InDtype

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


@pytest.mark.parametrize("launch", ["auto", "graphs", "eager"])
def test_outputs_stay_equal(model, launch):
    fast = copy.deepcopy(model)
    accelerate(fast, launch=launch)
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
    with pytest.raises(ValueError, match="dtype must be None, float32, float16 or bfloat16, got"):
        accelerate(model, dtype="int8")
    with pytest.raises(ValueError, match="launch must be one of auto, graphs, eager, got 'fast'"):
        accelerate(model, launch="fast")
    with pytest.raises(ValueError, match="Linear has no backbone with a head"):
        accelerate(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_what_was_done_can_be_undone_and_done_again(model, dtype):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    addresses = [p.data_ptr() for p in model.parameters()]
    image = torch.randn(1, 3, 64, 96)
    expected = run(model, image)
    first = accelerate(model, dtype="float16")
    again = accelerate(model, dtype=dtype)
    first.restore()  # was undone by the second call: changes nothing
    if dtype:
        assert model.backbone.layers[0][0].projection.weight.dtype == torch.bfloat16
    again.restore()
    again.restore()
    assert torch.equal(run(model, image), expected)
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "forward" not in model.backbone.__dict__


def test_a_copy_stays_accelerated_and_is_independent(model):
    accelerate(model, dtype="bfloat16")
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(run(other, image), run(model, image))
    for parameter in other.parameters():
        parameter.data.zero_()
    assert run(other, image).abs().max() < run(model, image).abs().max()


def test_the_model_inside_wrappers_is_accelerated(model):
    wrapper = torch.nn.Module()
    wrapper.module = torch.nn.Module()
    wrapper.module.module = model
    done = accelerate(wrapper, dtype="float16")
    assert model.backbone.layers[0][0].projection.weight.dtype == torch.float16
    assert done.summary == "the network runs eagerly (CUDA graphs need a GPU) in float16"


def test_graphs_are_for_our_networks_unless_asked_for():
    network = torch.nn.Module()
    network.backbone = torch.nn.Linear(2, 2, device="meta")
    weight = SimpleNamespace(device=torch.device("cuda"))
    network.parameters = lambda: iter([weight])
    assert why_eager(network, "auto") == "Linear is none of mmseg_tome's backbones"
    assert why_eager(network, "graphs") is None
    assert why_eager(network, "eager") == "as asked for"


class TestHook:
    @pytest.fixture
    def runner(self, model):
        model.data_preprocessor = torch.nn.Identity()
        return SimpleNamespace(model=model, _train_loop=None)

    def test_a_test_runs_in_half_precision_and_leaves_no_trace(self, model, runner, said):
        weight = model.backbone.layers[0][0].projection.weight
        hook = FastInferenceHook(dtype="bfloat16")
        hook.before_test(runner)
        assert model.backbone.layers[0][0].projection.weight.dtype == torch.bfloat16
        hook.before_test(runner)  # once more: as if it were once
        hook.after_test(runner)
        assert model.backbone.layers[0][0].projection.weight is weight
        assert said[0].startswith("test: the network runs eagerly (CUDA graphs need a GPU)")

    def test_two_of_it_leave_no_trace_either(self, model, runner):
        before = set(vars(model))
        runner.model.labels_only = False
        hooks = [FastInferenceHook(), FastInferenceHook(dtype="bfloat16")]  # config and user
        for hook in hooks:
            hook.before_test(runner)
            hook._set(model, "labels_only", True)  # as on a GPU
        hooks[0].after_test(runner)
        assert vars(model)["_acceleration"] is hooks[1]._acceleration
        hooks[1].after_test(runner)
        assert not model.labels_only
        assert model.backbone.layers[0][0].projection.weight.dtype == torch.float32
        assert set(vars(model)) - before == {"labels_only"}

    @pytest.mark.parametrize("missing", ["head", "backbone"])
    def test_a_model_of_other_parts_runs_as_it_is(self, model, runner, said, missing):
        for name in {missing, missing.replace("head", "decode_head")} & set(model._modules):
            delattr(model, name)
        hook = FastInferenceHook(dtype="bfloat16")
        hook.before_test(runner)
        hook.after_test(runner)
        assert not said

    def test_a_gpu_and_a_preprocessor_of_the_users_own(self, model, runner, monkeypatch):
        weight = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device("cpu"))
        monkeypatch.setattr(model, "parameters", lambda: iter([weight]))
        hook = FastInferenceHook()
        hook.before_test(runner)
        hook.after_test(runner)
        assert not hasattr(model.data_preprocessor, "_non_blocking")

    def test_validations_within_training_keep_the_weights(self, model, runner):
        runner._train_loop = BaseLoop.__new__(type("Loop", (BaseLoop,), dict(run=None)))
        FastInferenceHook(dtype="bfloat16").before_val(runner)
        assert model.backbone.layers[0][0].projection.weight.dtype == torch.float32

    @pytest.mark.parametrize("options", [dict(enabled=False), dict(graphs=False)])
    def test_old_arguments_work(self, model, runner, options):
        FastInferenceHook(**options).before_test(runner)
        assert not graphed_parts(model)

    @pytest.fixture
    def said(self, monkeypatch):
        said = []
        where = "mmseg_tome.hooks.fast.print_log"
        monkeypatch.setattr(where, lambda message, _: said.append(message))
        return said


def test_half_precision_is_for_floating_point_tensors_alone():
    def function(x, index, name, scale=None):
        assert (x.dtype, scale.dtype) == (torch.bfloat16, torch.bfloat16)
        return x * scale, index, name, None

    given = torch.ones(2), torch.tensor([1000]), "a"
    out = InDtype(function, torch.bfloat16, torch.float32)(*given, scale=torch.ones(2))
    assert out[0].dtype == torch.float32
    assert torch.equal(out[1], given[1])
    assert out[2:] == ("a", None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@torch.no_grad()
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_cuda_graphs_give_the_same_outputs(model, dtype):
    model = model.cuda()
    fast, eager = copy.deepcopy(model), copy.deepcopy(model)
    done = accelerate(fast, dtype)
    accelerate(eager, dtype, launch="eager")
    assert done.summary.startswith("the network runs by CUDA graphs in ")
    for size in ((64, 96), (97, 71), (64, 96), (97, 71), (64, 96)):
        image = torch.randn(1, 3, *size, device="cuda")
        torch.testing.assert_close(run(fast, image), run(eager, image), rtol=1e-4, atol=1e-4)
    assert fast.backbone.forward.captured == [True, True]
    again = copy.deepcopy(fast)
    for _ in range(3):
        torch.testing.assert_close(run(again, image), run(eager, image), rtol=1e-4, atol=1e-4)
    done.restore()
    torch.testing.assert_close(run(fast, image), run(model, image), rtol=1e-4, atol=1e-4)
