"""Which trainings run by CUDA graphs, and what is left of them afterwards."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmseg_tome.hooks import fast
from mmseg_tome.hooks.fast import FastTrainingHook, why_not_captured
from mmseg_tome.models import MixVisionTransformer
from mmseg_tome.runtime.graphs import graphed_parts

SMALL = dict(embed_dims=8, num_layers=(1, 1, 1, 1))


def runner_of(model):
    return SimpleNamespace(model=model)


def model_of(**options):
    model = nn.Module()
    model.backbone = MixVisionTransformer(**SMALL, **options)
    model.data_preprocessor = nn.Identity()
    return model


@pytest.fixture
def said(monkeypatch):
    said = []
    monkeypatch.setattr(fast, "print_log", lambda message, _: said.append(message))
    return said


@pytest.mark.parametrize(
    ("options", "reason"),
    [(dict(), "CUDA graphs need a GPU"), (dict(launch="eager"), "as asked for")],
)
def test_a_cpu_trains_as_without_it(options, reason, said):
    model = model_of()
    FastTrainingHook(**options).before_train(runner_of(model))
    assert said == [f"training: the backbone runs eagerly ({reason})"]
    assert not graphed_parts(model)


def test_a_gpu_trains_by_graphs_until_the_end(said, monkeypatch):
    monkeypatch.setattr(fast, "why_eager", lambda network, launch: None)
    model = model_of()
    hook = FastTrainingHook()
    for _ in range(2):
        hook.before_train(runner_of(model))
    (graphed,) = graphed_parts(model)
    assert graphed.uses == {"training"}
    hook.after_train(runner_of(model))
    assert not graphed_parts(model)
    assert said[0] == "training: the backbone runs by CUDA graphs"


@pytest.mark.parametrize("own", [False, True])
def test_two_hooks_on_a_gpu_leave_no_trace(monkeypatch, own):
    monkeypatch.setattr(fast, "why_eager", lambda network, launch: None)
    model = model_of()
    if not own:
        model.data_preprocessor._non_blocking = False  # as mmengine's have it
    monkeypatch.setattr(model, "parameters", lambda: iter([SimpleNamespace(is_cuda=True)]))
    hooks = [FastTrainingHook(), FastTrainingHook()]
    for hook in hooks:
        hook.before_train(runner_of(model))
        assert own or model.data_preprocessor._non_blocking
    for hook in hooks:
        hook.after_train(runner_of(model))
    assert not getattr(model.data_preprocessor, "_non_blocking", False)
    assert not graphed_parts(model)


def test_the_switch(said, monkeypatch):
    monkeypatch.setattr(fast, "why_eager", lambda network, launch: None)
    model = model_of()
    FastTrainingHook(enabled=False).before_train(runner_of(model))
    assert not graphed_parts(model)
    assert not said
    with pytest.raises(ValueError, match="launch must be one of auto, graphs, eager, got 'on'"):
        FastTrainingHook(launch="on")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (dict(with_cp=True, drop_path_rate=0.1), None),
        (dict(with_cp=True, drop_rate=0.1), "with_cp would recompute dropout"),
        (dict(with_cp=True, attn_drop_rate=0.1), "with_cp would recompute dropout"),
        (dict(drop_rate=0.1), None),
    ],
)
def test_what_a_graph_cannot_draw_again(options, reason):
    found = why_not_captured(model_of(**options))
    assert found is None if reason is None else reason in found


def test_sharded_parameters_move():
    wrapper = type("MMFullyShardedDataParallel", (nn.Module,), {})()
    wrapper.module = model_of()
    assert why_not_captured(wrapper) == "MMFullyShardedDataParallel moves parameters"


def test_recomputed_blocks_draw_the_same_drop_path_as_others():
    x = torch.randn(4, 3, 64, 64)
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = MixVisionTransformer(**SMALL, drop_path_rate=0.5, with_cp=with_cp).train()
        for _, blocks, _ in net.layers:
            for block in blocks:
                block.drop_path.drop_prob = 0.5
        torch.manual_seed(1)
        loss = sum(out.square().mean() for out in net(x))
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in net.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)
