"""Steps of training: what they compute, from where they start, what is reported. No timings."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("mmseg")
pytest.importorskip("tomesd")


from mmseg_tome.cli import benchmark
from mmseg_tome.lab.bench import benchmark as bench
from mmseg_tome.lab.bench import (
    cases,
    networks,
    peer,
    training,
)
from mmseg_tome.lab.bench.flops import count_flops

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = (64, 96)
RECIPES = (networks.OURS, networks.PEER, networks.FUSED_PEER)


@pytest.fixture(scope="module")
def case_of(tiny_model):
    """A case of named variants of a tiny model, or of a model."""

    def make(variants=("none", "hq"), drop=0.1, model=None, dtype="float32", size=SIZE, **settings):
        options = dict(train=True, rounds=3, warmup=0, fused_peer=True) | settings
        model = model or tiny_model(variants, drop)
        return cases.Case(model, size, 2, dtype, CPU, cases.Settings(**options))

    return make


def weights_of(case):
    args = benchmark.parse_args(["--part", case.settings.part])
    return bench.initial_weights(case.model, args)


def step_of(case, variant="none", recipe=networks.OURS, weights=None):
    """The net and its step, as `training` makes them."""
    torch.manual_seed(0)
    net = training.build(case, variant, recipe, weights or weights_of(case))
    criterion = training.criterion_of(case, net, case.image())
    return net, training.training_step(case, net, criterion, case.image())


# --- a step ---


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_step_trains(case_of, recipe):
    case = case_of()
    net, step = step_of(case, "hq", recipe)
    assert all(module.training for module in net.modules())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    losses = [float(step()) for _ in range(3)]
    moved = {key for key, value in net.state_dict().items() if not value.equal(before[key])}
    assert {key for key, _ in net.named_parameters()} <= moved
    assert any(key.endswith("running_mean") for key in moved)
    assert losses[2] < losses[0]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_all_pipelines_compute_the_same_loss_and_update_without_dropout(case_of):
    case = case_of(drop=0.0)
    weights, losses = weights_of(case), {}
    for recipe in RECIPES:
        for variant in case.model.variants:
            _, step = step_of(case, variant, recipe, weights)
            losses[variant, recipe.name] = torch.stack([step() for _ in range(3)])
    for variant in case.model.variants:
        for recipe in RECIPES[1:]:
            torch.testing.assert_close(
                losses[variant, recipe.name], losses[variant, "ours"], rtol=1e-4, atol=1e-5
            )
    assert not losses["none", "ours"].equal(losses["hq", "ours"])


def test_dropout_is_as_configured(case_of):
    losses = []
    for drop in (0.0, 0.5):
        _, step = step_of(case_of(drop=drop))
        losses.append(float(step()))
    assert losses[0] != losses[1]


def test_the_loss_is_that_of_mmseg(case_of):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    case = case_of()
    net = training.build(case, "none", networks.OURS, weights_of(case))
    given = []
    criterion = training.criterion_of(case, net, case.image())
    with torch.no_grad():
        logits = net(case.image())
        spy = F.cross_entropy
        try:
            F.cross_entropy = lambda x, y: given.append(y) or spy(x, y)
            loss = criterion(logits)
        finally:
            F.cross_entropy = spy
        (labels,) = given
        assert labels.shape == (2, *SIZE)
        assert set(labels.unique().tolist()) == set(range(5))
        samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in labels]
        expected = net.head.loss_by_feat(logits, samples)["loss_ce"]
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("part", ["model", "backbone"])
def test_without_classes_the_loss_is_a_mean_squared_error(case_of, repo, part):
    pytest.importorskip("mmpose")
    file = repo / "configs/b0/segformerpp_b0_hq_coco.py"
    (model,) = networks.config_models([str(file)])
    case = case_of(model=model, size=(64, 48), part=part)
    net, step = step_of(case, file.stem)
    assert all(module.training for module in net.modules())
    shape = (2, 17, 16, 12) if part == "model" else (2, 256, 2, 2)
    output = torch.zeros(shape)
    target_square = float(training.criterion_of(case, net, case.image())(output))
    assert target_square == pytest.approx(1 / 3, abs=0.03)  # of targets between 0 and 1
    assert float(step()) > float(step())


def test_only_float16_scales_its_loss(case_of, monkeypatch):
    scaled = []

    class Scaler(torch.amp.GradScaler):
        def scale(self, loss):
            if self.is_enabled():
                scaled.append(case.dtype)
            return super().scale(loss)

    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    for dtype, autocast in (("float32", False), ("bfloat16", True), ("float16", True)):
        case = case_of(dtype=dtype, autocast=autocast)
        net, step = step_of(case)
        assert step().isfinite()
        assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert scaled == ["float16"]


# --- FLOPs ---


@pytest.mark.parametrize("groups", [1, 8])
def test_flops_of_a_convolutions_gradient(groups):
    """As many as forward for the input, and again for the weight, depthwise or not."""
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
    _, forward = count_flops(lambda: conv(torch.randn(2, 8, 6, 5)))
    x = torch.randn(2, 8, 6, 5, requires_grad=True)
    _, flops = count_flops(lambda: conv(x).sum().backward())
    assert forward == {"convolution": 2 * (2 * 6 * 5 * 8 * 9 * 8 // groups)}
    assert flops["convolution_backward"] == 2 * forward["convolution"]
    _, flops = count_flops(lambda: conv(x.detach()).sum().backward())
    assert flops["convolution_backward"] == forward["convolution"]


def test_flops_of_attentions_gradient():
    """Five products, the first of which forward did, too."""
    q, k, v = torch.randn(3, 2, 3, 20, 8, requires_grad=True)
    attend = F.scaled_dot_product_attention
    _, flops = count_flops(lambda: attend(q, k, v).sum().backward())
    product = 2 * (2 * 3 * 20 * 20 * 8)
    assert sum(flops.values()) == (2 + 5) * product


# --- a case ---


@pytest.fixture(scope="module")
def measured(case_of):
    """A case, its weights before and after, its rows, and how often progress was reported."""
    case, steps = case_of(["hq"]), []
    weights = weights_of(case)
    before = {key: value.clone() for key, value in weights["ours"].items()}
    rows = training.run_case(case, weights, lambda: steps.append(None))
    return case, weights, before, rows, len(steps)


def test_rows_of_a_case(measured):
    case, _, _, rows, steps = measured
    assert [(r["variant"], r["pipeline"]) for r in rows] == [
        ("hq", pipeline) for pipeline in ("ours", "peer", "fused peer")
    ]
    assert steps == training.steps(case) == 3 * (2 + 3)
    for row in rows:
        assert row["error"] is None
        assert row["mode"] == "training"
        assert len(row["samples_ms"]) == 3
        assert row["images_per_s"] == pytest.approx(2e3 / row["latency_ms"]["median"])
        assert row["memory_mib"] is None or row["memory_mib"] > 0
        assert "one training step" in row["memory_kind"] or row["memory_mib"] is None
        assert row["difference"] is None
        assert row["launch"] == "eager"
    ours, stock, fused = rows
    assert ours["vs_peer"] == pytest.approx(
        stock["latency_ms"]["median"] / ours["latency_ms"]["median"]
    )
    assert ours["vs_fused_peer"] > 0
    assert "backward" in ours["attention"]
    assert stock["attention"].startswith("materialised")
    assert fused["attention"].startswith("fused")
    assert ours["tokens_kept"]


def test_flops_of_a_step_are_three_times_those_of_a_pass(measured):
    """To nearly: the image needs no gradient, fused attention multiplies once more."""
    case, weights, _, rows, _ = measured
    for row in rows:
        net = training.build(case, "hq", networks.RECIPES[row["pipeline"]], weights)
        _, flops = count_flops(case.forward(net, case.image()))
        assert 2.7 < row["gflops"] / (sum(flops.values()) / 2 / 1e9) < 3.1


def test_the_weights_given_stay_what_they_were(measured):
    _, weights, before, _, _ = measured
    assert all(value.equal(before[key]) for key, value in weights["ours"].items())


def test_both_passes_start_alike_and_hold_one_variant_at_a_time(case_of, monkeypatch):
    nets, losses = [], []
    build, make_step = training.build, training.training_step

    def watched_build(*args):
        assert all(net() is None for net in nets)  # freed
        net = build(*args)
        nets.append(weakref.ref(net))
        losses.append([])
        return net

    def watched_step(*args):
        step = make_step(*args)
        return lambda: losses[-1].append(float(step()))

    monkeypatch.setattr(training, "build", watched_build)
    monkeypatch.setattr(training, "training_step", watched_step)
    case = case_of(["hq"], rounds=2, fused_peer=False)
    training.run_case(case, weights_of(case))
    assert len(nets) == 2 * 2
    for first, second in zip(losses[:2], losses[2:], strict=True):
        assert first[:2] == second[:2]
    assert losses[0] != losses[1]


def test_one_round_needs_one_pass(case_of):
    case = case_of(["none"], rounds=1, fused_peer=False)
    steps = []
    rows = training.run_case(case, weights_of(case), lambda: steps.append(None))
    assert [len(row["samples_ms"]) for row in rows] == [1, 1]
    assert len(steps) == training.steps(case) == 4


def test_a_peer_that_fails_does_not_take_the_run_along(case_of, monkeypatch):
    calls = []

    def fail(self, x, hw_shape, identity=None):
        calls.append(None)
        raise RuntimeError("out of memory\nand a long story")

    monkeypatch.setattr(peer.PeerAttention, "forward", fail)
    case = case_of(["hq"], fused_peer=False, rounds=2)
    ours, failed = training.run_case(case, weights_of(case))
    assert failed["error"] == "RuntimeError: out of memory"
    assert failed["latency_ms"] is failed["vs_none"] is None
    assert len(calls) == 1  # and is not tried again
    assert len(ours["samples_ms"]) == 2
    assert ours["vs_peer"] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_steps_on_a_gpu(case_of, dtype):
    case = case_of(dtype=dtype, autocast=dtype != "float32")
    case = replace(case, device=torch.device("cuda"))
    for row in training.run_case(case, weights_of(case)):
        assert row["error"] is None
        assert row["memory_mib"] > 0
        assert len(row["samples_ms"]) == 3
