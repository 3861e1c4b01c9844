"""Automatic choice and advice: what was timed decides, and says so."""

import copy
import json
import pickle
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmseg_tome.merging import StageMerging  # isort: skip
from mmseg_tome.models.mix_transformer import MixVisionTransformer  # isort: skip
from mmseg_tome.runtime import calibration, timing  # isort: skip
from mmseg_tome.runtime.calibration import (  # isort: skip
    Advice,
    Calibration,
    StageDecision,
    advise,
    calibrate,
    decide_before,
    first_input,
    kind_of,
    obey,
    undecided,
)
from mmseg_tome.runtime.graphs import CudaGraphs, install  # isort: skip
from mmseg_tome.runtime.merging_switch import merging_of  # isort: skip

TINY = dict(embed_dims=8, num_layers=[2, 2, 3, 2], num_heads=[1, 2, 5, 8], sr_ratios=[8, 4, 2, 1])
SIZE = (96, 128)


@pytest.fixture
def tiny():
    def build(**kwargs) -> MixVisionTransformer:
        model = MixVisionTransformer(**TINY | kwargs)
        model.init_weights()
        return model.eval()

    return build


@pytest.fixture
def said(monkeypatch):
    """What was logged."""
    lines = []
    monkeypatch.setattr(calibration, "print_log", lambda message, _logger: lines.append(message))
    return lines


@pytest.fixture
def clock(monkeypatch):
    """Give a stage's blocks the time that is set for their merging; keeps what was asked."""

    class Clock(dict):
        asked = []

    times = Clock()

    def stage_seconds(blocks, inputs, merging, training, graphs):
        times.asked.append((tuple(inputs.x.shape), merging, training, graphs))
        return times.get(merging, times.get("other", 1.0)) * len(blocks)

    times.asked = []
    monkeypatch.setattr(calibration, "stage_seconds", stage_seconds)
    return times


def outputs(model, image):
    with torch.inference_mode():
        return model(image)


@pytest.mark.parametrize("merging_is_faster", [True, False])
@pytest.mark.parametrize("preset", ["hq", "n2d", "fast-turbo"])
def test_the_faster_way_is_taken(tiny, clock, merging_is_faster, preset):
    clock[calibration.NO_MERGING] = 1.5 if merging_is_faster else 0.5
    model, image = tiny(tome_cfg=f"{preset}-auto"), torch.randn(2, 3, *SIZE)
    assert undecided(model)
    found = calibrate(model, image)
    assert not undecided(model)
    assert [stage.merges for stage in found.stages] == [merging_is_faster] * 4
    other = tiny(tome_cfg=preset if merging_is_faster else None)
    other.load_state_dict(model.state_dict())
    for out, expected in zip(outputs(model, image), outputs(other, image), strict=True):
        assert torch.equal(out, expected)


def test_each_stage_is_decided_by_itself_on_its_own_tokens(tiny, clock, said):
    model = tiny(tome_cfg="fast-auto")
    merging = merging_of(model)
    clock[merging[0]], clock[merging[2]], clock[calibration.NO_MERGING] = 0.5e-3, 2e-3, 1e-3
    found = calibrate(model, torch.randn(2, 3, *SIZE), training=True)
    assert model.merging_stages == [True, True, False, False]
    assert found.stages[2] == StageDecision(False, pytest.approx(6e-3), pytest.approx(3e-3))
    shapes = [(2, 24 * 32, 8), (2, 12 * 16, 16), (2, 6 * 8, 40), (2, 3 * 4, 64)]
    assert [asked[0] for asked in clock.asked] == [shape for shape in shapes for _ in range(2)]
    assert {asked[2:] for asked in clock.asked} == {(True, False)}
    assert said == [
        "auto merging for 2 x 96x128 in float32 on cpu, training: "
        "stage 1 merges (1.00 ms merged, 2.00 ms without), "
        "stage 2 merges (1.00 ms merged, 2.00 ms without), "
        "stage 3 does not merge (6.00 ms merged, 3.00 ms without), "
        "stage 4 does not merge (4.00 ms merged, 2.00 ms without)"
    ]


def test_a_gain_within_the_scatter_of_timings_is_none(tiny, clock):
    model = tiny(tome_cfg="hq-auto")
    clock["other"], clock[calibration.NO_MERGING] = 0.99, 1.0
    calibrate(model, torch.randn(1, 3, *SIZE))
    assert model.merging_stages == [False] * 4


def test_nobody_times_a_stage_that_merges_nothing(tiny, clock):
    model = tiny(tome_cfg=dict(auto=[dict(), dict(q=dict(mode="n2d", stride=(2, 2))), {}, {}]))
    clock["other"], clock[calibration.NO_MERGING] = 0.5, 1.0
    calibrate(model, torch.randn(1, 3, *SIZE))
    assert model.merging_stages == [False, True, False, False]
    assert len(clock.asked) == 5


def test_reused_maps_are_counted_with_their_own_time(tiny, monkeypatch):
    """Stage 3 has three blocks: with reuse of 2, two match and one merges again."""
    times, model = iter([1.4, 0.1]), tiny()
    monkeypatch.setattr(timing, "seconds", lambda step, *_: next(times))
    inputs = timing.StageInputs(torch.randn(1, 48, 40), (6, 8))
    merging = StageMerging(*merging_of(tiny(tome_cfg="n2d"))[2][:2], 2)
    args = (model.layers[2][1], inputs, merging, False, False)
    assert timing.stage_seconds(*args) == pytest.approx(2 * 1.4 + 0.1)
    assert merging_of(model)[2] == calibration.NO_MERGING


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_cp", [False, True])
def test_timing_leaves_training_as_it_was(tiny, training, with_cp, said):
    """No gradient, no random number, no mode and no statistic changes."""
    rates = dict(drop_path_rate=0.5, drop_rate=0.1, attn_drop_rate=0.1)
    model = tiny(tome_cfg="hq-auto", with_cp=with_cp, **rates).train()
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    image = torch.randn(2, 3, *SIZE)
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    calibrate(model, image, training=training, dtype=torch.bfloat16 if training else None)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(torch.equal(a, before[key]) for key, a in model.state_dict().items())
    assert torch.is_autocast_cache_enabled()
    assert ("bfloat16 autocast" in said[0]) == training
    kept = [parameter.grad for parameter in model.parameters()]
    sum(out.sum() for out in model(image)).backward()
    assert kept != [parameter.grad for parameter in model.parameters()]


def test_the_gradients_of_weights_are_timed_with_those_of_tokens(tiny, monkeypatch):
    wanted = []
    plain = torch.autograd.grad

    def grad(outputs, inputs, *args, **kwargs):
        wanted.append(len(inputs))
        return plain(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    model = tiny(tome_cfg="hq-auto")
    calibrate(model, torch.randn(1, 3, *SIZE), training=True)
    per_block = {1 + len(list(blocks[0].parameters())) for _, blocks, _ in model.layers}
    assert set(wanted) == per_block
    model.layers[0].requires_grad_(False)
    wanted.clear()
    calibrate(model, torch.randn(1, 3, *SIZE), training=True)
    assert min(wanted) == 1


def test_a_real_timing_decides(tiny):
    model = tiny(tome_cfg="fast-auto")
    found = calibrate(model, torch.randn(1, 3, *SIZE))
    for stage in found.stages:
        assert stage.merged > 0
        assert stage.merges == (stage.merged < calibration.MARGIN * stage.unmerged)


def test_other_models_are_left_alone(tiny, clock):
    for model in (tiny(tome_cfg="hq"), tiny(), nn.Linear(1, 1)):
        assert not undecided(model)
        assert calibrate(model, torch.randn(1, 3, *SIZE)) is None
    assert not clock.asked


@pytest.mark.parametrize("decided", [None, [True, False, False, True]])
def test_a_forward_pass_times_nothing_and_can_be_compiled(tiny, clock, monkeypatch, decided):
    """Undecided, a stage merges as the preset says."""
    monkeypatch.setattr(timing.time, "perf_counter", None)
    layers = dict(num_layers=[1, 1, 1, 1])
    model, image = tiny(tome_cfg="hq-auto", **layers), torch.randn(1, 3, *SIZE)
    model.merging_stages = decided
    preset = [dict(kv=dict(mode="bsm", ratio=0.6, stride=(2, 2)))] * 2
    preset += [dict(q=dict(mode="bsm", ratio=0.8, stride=(4, 4)))] * 2
    wanted = decided or [True] * 4
    stages = [s if on else {} for s, on in zip(preset, wanted, strict=True)]
    same = tiny(tome_cfg=stages, **layers)
    same.load_state_dict(model.state_dict())
    expected = outputs(same, image)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for network in (model, compiled, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for out, other in zip(outputs(network, image), expected, strict=True):
            torch.testing.assert_close(out, other)
    exported = torch.export.export(model, (image,)).module()
    for out, other in zip(exported(image), expected, strict=True):
        torch.testing.assert_close(out, other)
    assert not clock.asked


def test_graphs_from_before_the_decision_are_not_replayed(tiny, clock, recorder):
    model, image = tiny(tome_cfg="n2d-auto"), torch.randn(1, 3, *SIZE)
    graphed = install(model, "inference", patience=0, capture=recorder)
    with torch.no_grad():
        model(image)
        assert graphed.graphs
        clock["other"], clock[calibration.NO_MERGING] = 2.0, 1.0
        found = calibrate(model, image)
        assert not graphed.graphs
        unmerged = tiny()
        unmerged.load_state_dict(model.state_dict())
        for out, other in zip(model(image), unmerged(image), strict=True):
            torch.testing.assert_close(out, other)
        obey(model, found)  # nothing new
        assert graphed.graphs


def test_kinds_of_run_are_told_apart_and_can_be_written(tiny):
    model, image = tiny(tome_cfg="hq-auto"), torch.randn(1, 3, *SIZE)
    kinds = [
        kind_of(model, image),
        kind_of(model, image, training=True),
        kind_of(model, torch.randn(2, 3, *SIZE)),
        kind_of(model, torch.randn(1, 3, 128, 96)),
        kind_of(tiny(tome_cfg="fast-auto"), image),
        kind_of(tiny(tome_cfg="hq-turbo-auto"), image),
        kind_of(tiny(tome_cfg="hq-auto", down_sample=True), image),
        kind_of(tiny(tome_cfg="hq-auto").double(), image),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        kinds.append(kind_of(model, image))
    for i, kind in enumerate(kinds):
        assert kinds.index(kind) == i
        assert json.loads(json.dumps(kind)) == kind
    # The form that asked does not matter.
    again = tiny(tome_cfg=dict(auto="hq"))
    assert kind_of(again, image) == kinds[0]


def test_decisions_are_written_and_read(tiny, clock):
    model = tiny(tome_cfg="hq-auto")
    found = calibrate(model, torch.randn(1, 3, *SIZE))
    plain = json.loads(json.dumps(found.as_plain()))
    assert Calibration.from_plain(plain) == found
    other = tiny(tome_cfg="hq-auto")
    obey(other, Calibration.from_plain(plain))
    assert other.merging_stages == model.merging_stages
    short = Calibration(found.kind, found.stages[:3])
    with pytest.raises(ValueError, match="3 stages do not fit"):
        obey(other, short)


STAGE = dict(merges=True, merged=1.0, unmerged=2.0)
WRONG = (dict(merges=1), dict(merged=""), dict(more=1))


@pytest.mark.parametrize(
    "plain",
    [None, 3, [], {}, dict(kind={}), dict(kind=1, stages=[]), dict(kind={}, stages=[3]),
     *(dict(kind={}, stages=[STAGE | wrong]) for wrong in WRONG)],
)  # fmt: skip
def test_what_is_no_decision_is_refused(plain):
    with pytest.raises(ValueError, match="no decision for auto merging"):
        Calibration.from_plain(plain)


KIND = dict(
    batch=3, size=[1024, 1024], dtype="bfloat16", device="NVIDIA H200", launch="graphs",
    mode="inference",
)  # fmt: skip


def test_advice_says_what_is_slower_and_what_to_type():
    times = dict(hq=9.1e-3, none=8.8e-3, n2d=6.2e-3, fast=8.9e-3)
    assert Advice("hq", KIND, times).warning == (
        "hq merging is slower than no merging for 3 x 1024x1024 in bfloat16 on NVIDIA H200 "
        "(blocks: 9.1 ms against 8.8 ms); n2d takes 6.2 ms: "
        "--cfg-options model.backbone.tome_cfg=n2d"
    )
    kind = KIND | dict(launch="eager", mode="training", dtype="float16 autocast")
    assert Advice("the configured", kind, {"the configured": 2e-3, "none": 1e-3}).warning == (
        "the configured merging is slower than no merging for 3 x 1024x1024 in float16 autocast on "
        "NVIDIA H200, training, launched eagerly (blocks: 2.0 ms against 1.0 ms): "
        "--cfg-options model.backbone.tome_cfg=None"
    )
    assert Advice("hq", KIND, dict(hq=1.0, none=0.99)).warning is None
    # Not faster than none by more than timings scatter.
    assert Advice("hq", KIND, dict(hq=2.0, none=1.0, n2d=0.99)).warning.endswith("tome_cfg=None")


def test_advice_times_other_presets_only_where_merging_does_not_pay(tiny, clock):
    model, image = tiny(tome_cfg="hq"), torch.randn(2, 3, *SIZE)
    hq, n2d = merging_of(model), merging_of(tiny(tome_cfg="n2d"))
    clock["other"], clock[calibration.NO_MERGING] = 0.5, 1.0
    advice = advise(model, image, training=True)
    assert advice.seconds == dict(hq=4.5, none=9.0)
    assert advice.warning is None
    assert {asked[2:] for asked in clock.asked} == {(True, False)}
    clock.update({hq[0]: 3.0, n2d[0]: 0.25})
    advice = advise(model, image)
    assert advice.name == "hq"
    others = dict(quality=3.75, speed=4.5, n2d=2.25, fast=4.5)
    assert advice.seconds == dict(hq=14.5, none=9.0, **others)
    assert advice.warning.endswith("tome_cfg=n2d")
    assert "on cpu" in advice.warning
    assert merging_of(model) == hq
    assert model.merging_stages is None
    assert advise(model, image, candidates=("none",)).seconds == dict(hq=14.5, none=9.0)


def test_advice_is_for_models_that_merge(tiny, clock):
    assert advise(tiny(), torch.randn(1, 3, *SIZE)) is None
    assert advise(nn.Linear(1, 1), torch.randn(1, 3, *SIZE)) is None
    custom = [dict(q=dict(mode="n1d", stride=2))] * 4
    advice = advise(tiny(tome_cfg=custom), torch.randn(1, 3, *SIZE))
    assert advice.name == "the configured"


def test_presets_for_another_number_of_stages_are_no_advice(clock):
    n1d = dict(q=dict(mode="n1d", stride=2))
    sizes = dict(num_layers=[1] * 3, num_heads=[1, 2, 4], patch_sizes=[7, 3, 3], strides=[4, 2, 2])
    model = MixVisionTransformer(
        **sizes, embed_dims=8, num_stages=3, sr_ratios=[4, 2, 1], out_indices=(0, 1, 2),
        tome_cfg=[n1d] * 3,
    )  # fmt: skip
    clock["other"], clock[calibration.NO_MERGING] = 2.0, 1.0
    assert set(advise(model, torch.randn(1, 3, 64, 64)).seconds) == {"the configured", "none"}


def test_real_advice(tiny):
    model = tiny(tome_cfg="hq").train()
    state = torch.get_rng_state()
    advice = advise(model, torch.randn(1, 3, *SIZE), training=True)
    assert all(value > 0 for value in advice.seconds.values())
    assert all(module.training for module in model.modules())
    assert model.auto is False
    assert torch.equal(torch.get_rng_state(), state) is False  # randn above, nothing else
    torch.set_rng_state(state)
    image = torch.randn(1, 3, *SIZE)
    after = torch.get_rng_state()
    advise(model, image)
    assert torch.equal(torch.get_rng_state(), after)


def test_the_first_input_is_what_the_backbone_is_given_first(tiny):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = tiny()
            self.runs = 0

        def forward(self, x):
            x = x * torch.rand(1)
            out = [self.backbone(window) for window in (x[..., :64], x[..., 64:])]
            self.runs += 1
            return out

    model, x = Model(), torch.ones(2, 3, *SIZE)
    state = torch.get_rng_state()
    factor = torch.rand(1)
    torch.set_rng_state(state)
    images = first_input(model, lambda: model(x))
    torch.testing.assert_close(images, (x * factor)[..., :64])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.runs == 0
    assert len(model(x)) == 2
    assert first_input(model, lambda: None) is None


def test_a_batch_that_does_not_fit_is_halved(tiny, monkeypatch):
    batches = []

    def stage_seconds(blocks, inputs, *_args):
        batches.append(len(inputs.x))
        if batches[-1] > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return 1.0

    monkeypatch.setattr(calibration, "stage_seconds", stage_seconds)
    model = tiny(tome_cfg="hq-auto")
    decide_before(lambda: model(torch.zeros(5, 3, *SIZE)), model)
    assert batches[:3] == [5, 2, 1]
    assert model.merging_stages == [False] * 4


def test_a_timed_backward_pass_runs_without_autocast(tiny, monkeypatch):
    found = []
    grad = torch.autograd.grad

    def watched(*args, **options):
        found.append(torch.is_autocast_enabled("cpu"))
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", watched)
    calibrate(tiny(tome_cfg="hq-auto"), torch.zeros(2, 3, *SIZE), True, torch.bfloat16)
    assert found
    assert not any(found)


def test_what_a_broken_capture_leaves_behind_is_mended(monkeypatch):
    """As the graphs of a run do: else all that follows runs on the stream that broke."""
    ended = []

    @contextmanager
    def capturing(_self, _graph, _pool):
        try:
            yield
        finally:
            ended.append(True)

    monkeypatch.setattr(CudaGraphs, "_capturing", capturing)
    monkeypatch.setattr(CudaGraphs, "_warm_up", lambda _self, work: work())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=None))
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    calls = []

    def step():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")

    assert timing._as_graph(step, torch.device("cuda")) is step
    assert ended == [True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("preset", ["hq-auto", "n2d-auto"])
def test_stages_are_timed_as_graphs(tiny, monkeypatch, said, dtype, training, preset):
    from mmseg_tome import ops

    ops.set_backend("auto")
    captured = []
    capture = timing._as_graph

    def watched(step, device):
        replay = capture(step, device)
        captured.append(replay is not step)
        return replay

    monkeypatch.setattr(timing, "_as_graph", watched)
    model = tiny(tome_cfg=preset).cuda().train()
    image = torch.randn(2, 3, *SIZE, device="cuda")
    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    calibrate(model, image, training=training, dtype=dtype, graphs=True)
    assert len(captured) == 8
    assert all(captured)
    assert torch.cuda.get_device_name() in said[0]
    assert "eagerly" not in said[0]
    assert all(map(torch.equal, states, (torch.get_rng_state(), torch.cuda.get_rng_state())))
    assert all(parameter.grad is None for parameter in model.parameters())
    advise(model, image, training=training, dtype=dtype, graphs=False)
    assert len(captured) == 8
