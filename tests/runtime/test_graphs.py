"""One cache of graphs for inference and training: on a CPU with captures of our own."""

import copy
import gc
import pickle
import threading

import pytest
import torch
from torch import nn

from mmseg_tome.runtime import capture, graphs
from mmseg_tome.runtime.graphs import Graphed, graphed_parts, install, release, suspended


class Net(nn.Module):
    """Two outputs, one of which needs no gradient, a parameter that is not used, and a norm."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.unused = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(2)
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return [self.norm(x * self.weight), dict(shifted=x * self.weight + 1, copy=x.detach() * 2)]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def graphed(net, recorder, *uses, **options):
    options.setdefault("patience", 0)
    for use in uses or ("inference", "training"):
        install(net, use, capture=recorder, **options)
    return net


def loss_of(out, x):
    return (out[0].square() * x).sum() + out[1]["shifted"].sum()


class TestInference:
    @torch.no_grad()
    def test_results_are_those_of_the_forward_and_stay(self, net, recorder):
        plain = copy.deepcopy(net).eval()
        net = graphed(net, recorder).eval()
        inputs = [torch.randn(4, 2) for _ in range(3)]
        outs = [net(x) for x in inputs]
        for x, out in zip(inputs, outs, strict=True):
            for own, expected in zip([out[0], *out[1].values()], _flat(plain(x)), strict=True):
                assert torch.equal(own, expected)
        assert recorder.captures == [("inference", [(4, 2)])]

    @torch.no_grad()
    def test_the_first_of_a_kind_is_not_worth_a_capture(self, net, recorder):
        net = graphed(net, recorder, patience=1).eval()
        net(torch.ones(3, 2))
        assert not recorder.captures
        net(torch.ones(3, 2))
        assert recorder.captures == [("inference", [(3, 2)])]

    @torch.no_grad()
    def test_ever_new_shapes_are_quiet_and_a_frequent_one_takes_the_rarest_ones_place(
        self, net, recorder, monkeypatch
    ):
        said = []
        monkeypatch.setattr(graphs, "print_log", lambda *a, **k: said.append(a))
        monkeypatch.setattr(graphs, "MAX_COUNTED", 10)
        net = graphed(net, recorder, max_shapes=2).eval()
        for n in [2, 2, 2, 3, 3, *range(4, 40)]:
            net(torch.ones(n, 2))
        assert len(recorder.captures) == 2
        for _ in range(7):  # more than twice as often as the rarest, which came twice
            net(torch.ones(50, 2))
        assert [shapes[0][0] for _, shapes in recorder.captures] == [2, 3, 50]
        assert len(net.forward.counts) <= 10
        assert not said

    @torch.no_grad()
    def test_what_a_graph_depends_on_is_in_its_key(self, net, recorder, monkeypatch):
        net = graphed(net, recorder).eval()
        x = torch.ones(4, 2)
        for given in (x, x.clone(), x.t().contiguous().t()):
            net(given)
        assert len(recorder.captures) == 2  # strides
        kinds = {graphs._kind([x], None, "inference"), graphs._kind([x.half()], None, "inference")}
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
        kinds.add(graphs._kind([x], None, "inference"))
        assert len(kinds) == 3

    @torch.no_grad()
    def test_training_mode_without_gradients_runs_plainly(self, net, recorder):
        graphed(net, recorder).train()(torch.ones(4, 2))
        assert not recorder.captures

    @torch.no_grad()
    def test_weights_that_moved_are_captured_anew(self, net, recorder):
        plain = Net().eval()
        net = graphed(net, recorder).eval()
        net(torch.ones(4, 2))
        net.load_state_dict(plain.state_dict())  # in place: the graph reads the new values
        net(torch.ones(4, 2))
        assert len(recorder.captures) == 1
        state = {k: v.clone() for k, v in plain.state_dict().items()}
        net.load_state_dict(state, assign=True)
        assert torch.equal(net(torch.ones(4, 2))[0], plain(torch.ones(4, 2))[0])
        assert len(recorder.captures) == 2

    @torch.no_grad()
    def test_what_cannot_be_captured_runs_plainly_and_says_so_once(
        self, net, recorder, monkeypatch
    ):
        said = []
        monkeypatch.setattr(graphs, "print_log", lambda message, _: said.append(message))

        def refuse(function, tensors):
            try:
                raise RuntimeError("out of memory\nmore")
            finally:
                raise RuntimeError("the capture was invalidated")

        monkeypatch.setattr(recorder, "inference", refuse)
        recovered = []
        monkeypatch.setattr(recorder, "recover", lambda: recovered.append(1))
        net = graphed(net, recorder).eval()
        for _ in range(3):
            assert net(torch.ones(4, 2))[1]["shifted"].tolist() == [[3, 4]] * 4
        assert said == ["Net runs inputs of 4x2 without a CUDA graph: out of memory"]
        assert recovered == [1]
        assert net.forward.captured == [False]

    @torch.no_grad()
    def test_a_cpu_runs_as_without_it(self, net):
        install(net, "inference", patience=0)
        net.eval()
        net(torch.ones(2, 2))
        assert net.passes == 1
        assert net.forward.captured == []

    @torch.no_grad()
    def test_threads_take_turns(self, net, recorder):
        net = graphed(net, recorder).eval()
        wrong = []

        def work(value):
            for _ in range(200):
                out = net(torch.full((3, 2), value))
                if not torch.equal(out[1]["shifted"][0], value * net.weight + 1):
                    wrong.append(value)

        threads = [threading.Thread(target=torch.no_grad()(work), args=(float(i),)) for i in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    @torch.no_grad()
    def test_suspended_parts_run_plainly(self, net, recorder):
        outer = nn.Module()
        outer.part = graphed(net, recorder).eval()
        net(torch.ones(2, 2))
        before = net.passes
        with suspended(outer):
            net(torch.ones(2, 2))
            net(torch.ones(9, 2))
        assert net.passes == before + 2
        assert len(recorder.captures) == 1
        assert not graphed_parts(outer)[0].suspended


class TestTraining:
    def steps(self, net, x, factor=1.0):
        loss = loss_of(net(x), x) * factor
        net.zero_grad()
        loss.backward()
        return [p.grad for p in net.parameters()]

    def test_gradients_are_those_of_plain_passes(self, net, recorder):
        plain = copy.deepcopy(net)
        net = graphed(net, recorder)
        for _ in range(3):
            x = torch.randn(5, 2)
            own, expected = self.steps(net, x), self.steps(plain, x)
            for a, b in zip(own, expected, strict=True):
                assert (a is None and b is None) or torch.equal(a, b)
        assert torch.equal(net.norm.running_mean, plain.norm.running_mean)
        assert recorder.captures == [("training", [(5, 2)])]

    def test_gradients_of_the_input(self, net, recorder):
        plain = copy.deepcopy(net)
        net = graphed(net, recorder)
        x = torch.randn(5, 2, requires_grad=True)
        for _ in range(2):
            grads = [torch.autograd.grad(loss_of(n(x), x), x)[0] for n in (net, plain)]
            torch.testing.assert_close(*grads)

    def test_gradients_of_an_input_last(self, net, recorder):
        net = graphed(net, recorder).train()
        inputs = [torch.randn(4, 2, requires_grad=True) for _ in range(2)]
        grads = []
        for x in inputs:
            loss_of(net(x), x.detach()).backward()
            grads.append(x.grad.clone())
        assert torch.equal(inputs[0].grad, grads[0])

    def test_a_retained_pass_whose_memory_is_in_use_again_is_refused(self, net, recorder):
        net = graphed(net, recorder).train()
        x = torch.randn(4, 2)
        first = loss_of(net(x), x)
        first.backward(retain_graph=True)
        loss_of(net(x), x).backward()
        with pytest.raises(RuntimeError, match="goes backward once more"):
            first.backward()

    def test_a_backward_pass_runs_without_the_autocast_of_its_forward_pass(self):
        x, weight = torch.randn(8, 64), torch.randn(64, 64, requires_grad=True)
        given = torch.randn(8, 64)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.autocast("cpu", enabled=False):  # where precision matters
                out = x @ weight
            (found,) = capture._gradients([out], [weight], [given])
        assert torch.equal(found, torch.autograd.grad(x @ weight, weight, given)[0])

    def test_gradients_accumulate(self, net, recorder):
        plain = copy.deepcopy(net)
        net = graphed(net, recorder)
        for _ in range(4):
            x = torch.randn(5, 2)
            for each in (net, plain):
                loss_of(each(x), x).backward()
            assert torch.equal(net.weight.grad, plain.weight.grad)

    def test_a_second_backward_pass_accumulates_too(self, net, recorder):
        plain = copy.deepcopy(net)
        net, x = graphed(net, recorder), torch.randn(5, 2)
        for each in (net, plain):
            loss = loss_of(each(x), x)
            loss.backward(retain_graph=True)
            loss.backward()
        assert torch.equal(net.weight.grad, plain.weight.grad)

    def test_a_forward_pass_whose_backward_is_to_come_is_not_written_over(self, net, recorder):
        plain = copy.deepcopy(net)
        net = graphed(net, recorder)
        a, b = torch.randn(5, 2), torch.randn(5, 2)
        for each in (net, plain):
            first, second = each(a), each(b)
            (loss_of(first, a) * 3 + loss_of(second, b)).backward()
        assert torch.allclose(net.weight.grad, plain.weight.grad)
        out = net(a)
        del out, first, second
        gc.collect()
        before = net.passes
        net(b)  # the last one was given up: this one is a replay, which runs once in the recorder
        assert net.passes == before + 1

    def test_an_output_without_a_gradient_counts_as_zero(self, net, recorder):
        plain = copy.deepcopy(net)
        net, x = graphed(net, recorder), torch.randn(5, 2)
        for each in (net, plain):
            loss_of(each(x), x).backward()
            each.zero_grad()
            each(x)[1]["shifted"].sum().backward()
        assert torch.equal(net.weight.grad, plain.weight.grad)
        assert not net(x)[1]["copy"].requires_grad

    def test_frozen_weights_and_thawed_ones(self, net, recorder):
        net, x = graphed(net, recorder), torch.randn(5, 2)
        net.weight.requires_grad_(False)
        assert self.steps(net, x)[0] is None
        net.weight.requires_grad_(True)
        assert self.steps(net, x)[0] is not None
        assert len(recorder.captures) == 2

    def test_validation_between_steps(self, net, recorder):
        plain = copy.deepcopy(net)
        net = graphed(net, recorder)
        optimizers = [torch.optim.SGD(n.parameters(), 0.1) for n in (net, plain)]
        for _ in range(3):
            x = torch.randn(5, 2)
            outs = []
            for each, optimizer in zip((net, plain), optimizers, strict=True):
                self.steps(each.train(), x)
                optimizer.step()
                with torch.no_grad():
                    outs.append(each.eval()(x)[0])
            assert torch.equal(*outs)
        assert [use for use, _ in recorder.captures] == ["training", "inference"]

    def test_evaluation_mode_with_gradients_runs_plainly(self, net, recorder):
        net = graphed(net, recorder).eval()
        self.steps(net, torch.randn(5, 2))
        assert not recorder.captures


class Odd(nn.Module):
    """Returns what is no tensor beside one that is; has an argument that goes by name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x, factor=1):
        return x * self.weight * factor, None


def test_calls_and_results_of_any_kind_run_plainly(recorder, monkeypatch):
    said = []
    monkeypatch.setattr(graphs, "print_log", lambda message, _: said.append(message))
    net = graphed(Odd(), recorder).eval()
    x = torch.ones(3, 2)
    with torch.no_grad():
        assert torch.equal(net(x, factor=3)[0], 3 * x)
        for _ in range(3):
            out, nothing = net(x)
            assert torch.equal(out, x)
            assert nothing is None
    assert said == ["Odd runs inputs of 3x2 without a CUDA graph: it returns more than tensors"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_independent_and_works(net, recorder, duplicate):
    net = graphed(net, recorder).eval()
    x = torch.randn(3, 2)
    with torch.no_grad():
        net(x)
        other = duplicate(net)
        other.weight.zero_()
        assert torch.equal(other(x)[1]["shifted"], torch.ones(3, 2))
        assert not torch.equal(net(x)[1]["shifted"], torch.ones(3, 2))
    assert other.forward is not net.forward
    assert other.forward.module is other


def test_uses_end_one_by_one_and_leave_nothing(net, recorder):
    forward = net.forward
    graphed(net, recorder)
    assert isinstance(net.forward, Graphed)
    graphed(net, recorder)  # idempotent
    loss_of(net(torch.ones(2, 2)), torch.ones(2, 2)).backward()
    release(net, "inference")
    assert net.forward.captured == [True]  # the training's
    release(net, "training")
    release(net, "training")
    assert "forward" not in net.__dict__
    assert net.forward == forward


def test_a_forward_of_the_users_own_is_captured_and_put_back(net, recorder):
    net.forward = own = lambda x: [x + 1]
    graphed(net, recorder, "inference").eval()
    with torch.no_grad():
        assert net(torch.zeros(1))[0].item() == 1
    release(net, "inference")
    assert net.forward is own


def _flat(out):
    return [out[0], *out[1].values()]


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def backbones(**options):
    """Two equal backbones on the GPU, the second of which runs by graphs."""
    pytest.importorskip("mmengine")
    from mmseg_tome import ops
    from mmseg_tome.models import MixVisionTransformer

    ops.set_backend("auto")
    torch.manual_seed(0)
    sizes = dict(embed_dims=16, num_layers=(1, 2, 1, 1), **options)
    nets = [MixVisionTransformer(**sizes).cuda().train() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for use in ("training", "inference"):
        install(nets[1], use)
    return nets


@gpu
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        dict(tome_cfg=None, drop_path_rate=0.0),
        dict(tome_cfg="hq", drop_path_rate=0.0),
        dict(tome_cfg="n2d", drop_path_rate=0.3),
        dict(tome_cfg="fast", drop_path_rate=0.3, with_cp=True),
        dict(tome_cfg="hq", drop_rate=0.1, attn_drop_rate=0.1),
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_graphs_train_as_plain_passes_do(options, autocast, accumulate):
    nets = backbones(**options)
    optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in nets]
    scalers = [torch.amp.GradScaler("cuda", enabled=autocast is torch.float16) for _ in nets]
    losses = [[], []]
    for step in range(6):
        torch.manual_seed(step)
        images = [torch.randn(2, 3, 96, 64, device="cuda") for _ in range(accumulate)]
        for net, optimizer, scaler, found in zip(nets, optimizers, scalers, losses, strict=True):
            torch.manual_seed(step + 100)  # drop path and dropout draw the same
            optimizer.zero_grad()
            for image in images:
                with torch.autocast("cuda", autocast, enabled=autocast is not None):
                    loss = sum(out.float().square().mean() for out in net(image))
                scaler.scale(loss / accumulate).backward()
                found.append(loss.detach())
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
    tolerance = 1e-4 if autocast is None else 2e-2
    torch.testing.assert_close(*map(torch.stack, losses), rtol=tolerance, atol=tolerance)
    assert nets[1].forward.captured == [True]


@gpu
@torch.no_grad()
def test_inference_graphs_between_training_steps_and_on_two_streams():
    nets = backbones(tome_cfg="hq")
    image = torch.randn(1, 3, 96, 64, device="cuda")
    plain = [out.clone() for out in nets[0].eval()(image)]
    nets[1].eval()
    streams = [torch.cuda.Stream() for _ in range(2)]
    outs = []
    for i in range(6):
        streams[i % 2].wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(streams[i % 2]):
            outs.append(nets[1](image))
    torch.cuda.synchronize()
    for out in outs:
        for own, expected in zip(out, plain, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    assert nets[1].forward.captured == [True]


@gpu
@torch.no_grad()
def test_index_maps_that_the_cache_drops_live_on():
    nets = [net.eval() for net in backbones(tome_cfg="n2d")]
    image = torch.randn(1, 3, 96, 64, device="cuda")
    for _ in range(2):
        nets[1](image)
    for side in range(64, 64 + 32 * 40, 32):  # drops every map of the first size
        nets[0](torch.randn(1, 3, 64, side, device="cuda"))
    junk = [torch.full((96 * 64,), -1, device="cuda") for _ in range(200)]
    for own, expected in zip(nets[1](image), nets[0](image), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    assert len(junk) == 200
