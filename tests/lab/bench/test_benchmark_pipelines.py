"""The pipelines beside ours and the peer: it fused, it compiled, ours by CUDA graphs."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

pytest.importorskip("mmseg")
pytest.importorskip("tomesd")


from mmseg_tome.cli import benchmark
from mmseg_tome.lab.bench import benchmark as bench
from mmseg_tome.lab.bench import (
    cases,
    inference,
    measure,
    networks,
    rates,
    tables,
    training,
)
from mmseg_tome.lab.bench.flops import attention_backend, count_flops
from mmseg_tome.runtime.graphs import CudaGraphs

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = (64, 96)
PEERS = ("peer", "fused peer")
VARIANTS = ("none", "hq", "n2d", "mixed")


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(VARIANTS)


@pytest.fixture(scope="module")
def weights(model):
    """With statistics of the batch norms that matter."""
    found = bench.initial_weights(model, benchmark.parse_args([]))
    for key, value in found["ours"].items():
        if key.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 2)
            found["peer"][key].copy_(value)
    return found


def case_of(model, variants=("none", "hq"), dtype="float32", **settings):
    only = replace(model, variants={v: model.variants[v] for v in variants})
    return cases.Case(only, SIZE, 2, dtype, CPU, cases.Settings(rounds=1, warmup=0, **settings))


def record_and_replay(function, tensors):
    """What a CUDA graph does: run again on the same memory, into the same memory."""
    inputs = [x.clone() for x in tensors]
    kept = [out.clone() for out in function(*inputs)]

    def replay(given):
        for own, new in zip(inputs, given, strict=True):
            own.copy_(new)
        for own, new in zip(kept, function(*inputs), strict=True):
            own.copy_(new)
        return [out.clone() for out in kept]

    return replay


@pytest.fixture
def capture_by(monkeypatch):
    """Let graphs be captured on this CPU, by a function in place of CUDA's capture."""

    def use(capture):
        class Captured(CudaGraphs):
            def takes(self, tensors):
                return True

            def recover(self):
                pass

            def inference(self, function, tensors):
                return capture(function, tensors)

        monkeypatch.setattr(networks, "CudaGraphs", Captured)

    return use


def find(rows, variant, pipeline):
    (row,) = (r for r in rows if (r["variant"], r["pipeline"]) == (variant, pipeline))
    return row


# --- the fused peer ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_fused_peer_is_the_peer_without_its_matrices(model, weights, variant):
    found = {}
    case = case_of(model, [variant])
    for recipe in (networks.PEER, networks.FUSED_PEER):
        net = inference.build(case, variant, recipe, weights)
        found[recipe.name] = count_flops(case.forward(net, case.image()))
    (output, flops), (fused_output, fused_flops) = found["peer"], found["fused peer"]
    assert measure.relative_difference(fused_output, output) < 1e-5
    assert sum(fused_flops.values()) == sum(flops.values())
    assert attention_backend(flops).startswith("materialised")
    assert attention_backend(fused_flops).startswith("fused (_scaled_dot_product")
    if variant == "none":  # in every block: queries x keys x channels of each stage, twice
        products = 384 * 6 * 8 + 96 * 6 * 16 + 24 * 6 * 40 + 6 * 6 * 64
        (attention,) = (n for op, n in fused_flops.items() if "scaled_dot_product" in op)
        assert attention == flops["bmm"] - fused_flops["bmm"] == 2 * 2 * 2 * products


def test_rows_of_all_pipelines(model, weights):
    case = case_of(model, fused_peer=True, graphs=True)
    steps = []
    rows = inference.run_case(case, weights, lambda: steps.append(None))
    assert len(steps) == inference.steps(case) == 2 * 4 * (1 + 1)
    assert [(r["variant"], r["pipeline"]) for r in rows] == [
        (variant, pipeline)
        for variant in ("none", "hq")
        for pipeline in ("ours", "ours, graphs", *PEERS)
    ]
    for variant in ("none", "hq"):
        at = {name: find(rows, variant, name) for name in ("ours", "ours, graphs", *PEERS)}
        ms = {name: row["latency_ms"]["median"] for name, row in at.items()}
        for name in ("ours", "ours, graphs"):
            assert at[name]["vs_peer"] == pytest.approx(ms["peer"] / ms[name])
            assert at[name]["vs_fused_peer"] == pytest.approx(ms["fused peer"] / ms[name])
            assert at[name]["tokens_kept"]
        none = find(rows, "none", "ours, graphs")["latency_ms"]["median"]
        assert at["ours, graphs"]["vs_none"] == pytest.approx(none / ms["ours, graphs"])
        assert at["peer"]["difference"] is at["peer"]["reference"] is None
        for name in ("ours", "ours, graphs", "fused peer"):
            assert at[name]["reference"] == "peer"
            assert at[name]["difference"] < 1e-5
        assert at["peer"]["vs_fused_peer"] is at["fused peer"]["vs_peer"] is None


def test_without_the_peer_outputs_are_compared_with_the_fused_peer(model, weights):
    rows = inference.run_case(case_of(model, ["hq"], peer=False, fused_peer=True), weights)
    ours, fused = rows
    assert (ours["reference"], fused["reference"]) == ("fused peer", None)
    assert ours["difference"] < 1e-5
    assert ours["vs_peer"] is None
    assert ours["vs_fused_peer"] > 0


def test_the_table_fits_in_160_columns(model, weights):
    case = case_of(model, fused_peer=True, graphs=True)
    rows = inference.run_case(case, weights)
    for row in rows:
        row["variant"] = "fast-turbo"
        row["latency_ms"] |= {"median": 4467.1, "q1": 4466.1, "q3": 4468.3}
        row["memory_mib"], row["gflops"], row["vs_none"] = 47777, 1444.44, 12.34
    console = Console(width=160, record=True)
    tables.print_case(rows, console)
    printed = console.export_text()
    for expected in ("x peer", "x fused peer", "4466.1-4468.3", "12.34x", "47777", "q 100 100 "):
        assert expected in printed
    assert "…" not in printed


def test_columns_that_say_nothing_are_left_out(model, weights):
    rows = inference.run_case(case_of(model, ["hq"], peer=False), weights)
    console = Console(width=160, record=True)
    tables.print_case(rows, console)
    printed = console.export_text()
    assert "x peer" not in printed
    assert "x fused peer" not in printed
    assert "GFLOPs" in printed


# --- the compiled stock ---


@pytest.fixture
def inductor():
    torch._dynamo.reset()
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(3))
    except Exception as error:  # no compiler, or none that torch knows
        pytest.skip(f"inductor cannot compile here: {str(error).splitlines()[0]}")


@pytest.mark.slow
def test_the_compiled_stock_is_the_peer_compiled(model, inductor):
    """Of one stage: inductor is slow."""
    one = dict(num_stages=1, num_layers=[1], num_heads=[1], patch_sizes=[7], strides=[4])
    backbone = model.backbone | one | dict(sr_ratios=[2], out_indices=(0,))
    head = model.head | dict(in_channels=[8], in_index=[0])
    merging = [dict(q=dict(mode="bsm", ratio=0.5, stride=(2, 2)))]
    small = replace(model, backbone=backbone, head=head, variants={"q": dict(tome_cfg=merging)})
    case = case_of(small, ["q"], peer=False, compiled_peer=True)
    weights = bench.initial_weights(small, benchmark.parse_args([]))
    ours, stock = inference.run_case(case, weights)
    assert stock["error"] is None
    assert (stock["pipeline"], stock["launch"]) == ("compiled stock", "torch.compile")
    assert stock["attention"].startswith("fused")
    assert ours["reference"] == "compiled stock"
    assert ours["difference"] < 1e-5
    ms = [row["latency_ms"]["median"] for row in (ours, stock)]
    assert ours["vs_compiled_stock"] == pytest.approx(ms[1] / ms[0])


def test_what_is_captured_of_the_compiled_stock_is_compiled(model, weights, capture_by):
    """Inductor's place is taken by a backend that runs the graph as it is."""
    torch._dynamo.reset()
    compiled, captured = [], []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    def capture(function, tensors):
        captured.append(tensors)
        return record_and_replay(function, tensors)

    capture_by(capture)
    case = case_of(model, ["none"])
    net = inference.build(case, "none", networks.COMPILED_PEER, weights)
    expected = case.forward(net, case.image())()
    with pytest.MonkeyPatch.context() as patch:
        compile_ = torch.compile
        patch.setattr(torch, "compile", lambda f, **kw: compile_(f, backend=backend, **kw))
        launched = networks.COMPILED_PEER.launch(net)
    assert networks.launch_of(launched) == "torch.compile"
    output = case.forward(launched, case.image())()
    assert len(compiled) >= 2  # backbone and head
    assert len(captured) == 2
    assert networks.launch_of(launched) == "torch.compile; CUDA graphs"
    assert measure.relative_difference(output, expected) < 1e-5


# --- CUDA graphs ---


def test_on_a_cpu_graphs_run_eagerly_and_say_so(model, weights):
    rows = inference.run_case(case_of(model, ["hq"], peer=False, graphs=True), weights)
    ours, graphs = rows
    assert graphs["latency_ms"]["median"] > 0
    assert (ours["launch"], graphs["launch"]) == ("eager", "eager")
    assert graphs["reference"] == "ours"
    assert graphs["difference"] == 0


@pytest.mark.parametrize("part", ["model", "backbone"])
def test_captured_graphs_are_what_is_measured(model, weights, capture_by, part):
    replays = []

    def capture(function, tensors):
        replay = record_and_replay(function, tensors)
        return lambda given: replays.append(tuple(given[0].shape)) or replay(given)

    capture_by(capture)
    parted = benchmark.parse_args(["--part", part])
    weights = bench.initial_weights(model, parted)
    case = case_of(model, ["hq"], graphs=True, part=part)
    ours, graphs, peer = inference.run_case(case, weights)
    assert (ours["launch"], graphs["launch"], peer["launch"]) == ("eager", "CUDA graphs", "eager")
    assert "capture" in graphs["memory_kind"]
    assert "capture" not in ours["memory_kind"]
    assert graphs["gflops"] == ours["gflops"]  # counted before: a replay hides its operators
    assert graphs["difference"] < 1e-5
    levels = [shape for shape in replays if shape != (2, 3, *SIZE)]
    assert len(replays) > len(levels) > 0 if part == "model" else replays and not levels


def test_a_wrong_replay_is_noticed(model, weights, capture_by, capsys):
    def capture(function, tensors):
        function(*tensors)
        return lambda given: [2 * out for out in function(*given)]

    capture_by(capture)
    case = case_of(model, ["hq"], graphs=True)
    rows = inference.run_case(case, weights)
    assert find(rows, "hq", "ours")["difference"] < 1e-5
    assert find(rows, "hq", "ours, graphs")["difference"] > 0.1
    assert bench.verdict(rows, benchmark.parse_args([])) == 1
    assert "model, hq, ours, graphs: outputs differ from the peer's by" in capsys.readouterr().err


def test_a_capture_that_fails_is_not_called_a_graph(model, weights, capture_by):
    def refuse(function, tensors):
        raise RuntimeError("operation not permitted when stream is capturing")

    def refuse_levels(function, tensors):
        return (record_and_replay if len(tensors) == 1 else refuse)(function, tensors)

    case = case_of(model, ["hq"], peer=False, graphs=True)
    for capture, launch in (
        (refuse, "eager, since no CUDA graph could be captured"),
        (refuse_levels, "CUDA graphs in part, since not all could be captured"),
    ):
        capture_by(capture)
        rows = inference.run_case(case, weights)
        row = find(rows, "hq", "ours, graphs")
        assert row["error"] is None
        assert row["launch"] == launch


def test_where_the_time_goes_is_asked_once_for_ours(model, weights):
    fast = rates.Rates(CPU, copy=1e10, matmul={"float32": 1e11})
    case = case_of(model, ["hq"], peer=False, fused_peer=True, graphs=True)
    steps = []
    rows = inference.run_case(case, weights, lambda: steps.append(None), fast)
    assert len(steps) == inference.steps(case, True)
    assert find(rows, "hq", "ours")["breakdown"]["attention"]["ms"] > 0
    assert find(rows, "hq", "fused peer")["breakdown"]["attention"]["ms"] > 0
    assert find(rows, "hq", "ours, graphs")["breakdown"] is None
    console = Console(width=160, record=True)
    tables.print_breakdown(rows, fast, console)
    printed = console.export_text()
    assert "fused peer" in printed
    assert "ours, graphs" not in printed


# --- half precision ---


def test_half_precision_is_that_of_the_hook_for_ours(model, weights):
    """Batch norms stay float32 and results are; the peer is cast as a whole."""
    case = case_of(model, ["none", "hq"], dtype="bfloat16")
    placed = case.place(weights)
    for layout, wide in (("ours", torch.float32), ("peer", torch.bfloat16)):
        kinds = {
            key: value.dtype for key, value in placed[layout].items() if value.is_floating_point()
        }
        norms = {kinds.pop(key) for key in list(kinds) if ".bn." in key}
        assert norms == {wide}
        assert set(kinds.values()) == {torch.bfloat16}
    nets = [inference.build(case, v, networks.OURS, placed) for v in ("none", "hq")]
    for one, other in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert one.data_ptr() == other.data_ptr()  # all variants need one copy
    output = case.forward(nets[0], case.image())()
    assert output.dtype == torch.float32
    peer = inference.build(case, "none", networks.PEER, placed)
    stock = case.forward(peer, case.image())()
    assert stock.dtype == torch.bfloat16
    assert measure.relative_difference(output, stock) < 0.1


def test_autocast_leaves_weights_in_float32(model, weights):
    case = case_of(model, ["none"], dtype="bfloat16", autocast=True)
    net = inference.build(case, "none", networks.OURS, case.place(weights))
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_launch_is_read_off_the_network(model):
    net = networks.build(model, {}, of_peer=False)
    assert networks.launch_of(net) == "eager"
    assert networks.launch_of(torch.compile(net)) == "torch.compile"
    assert [name for name in networks.RECIPES if networks.is_ours(name)] == ["ours", "ours, graphs"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("train", [False, True])
def test_the_compiled_stock_is_captured(model, weights, train):
    torch._dynamo.reset()
    case = case_of(model, ["none"], peer=False, compiled_peer=True, train=train)
    case = replace(case, device=torch.device("cuda"))
    run_case = training.run_case if train else inference.run_case
    _, stock = run_case(case, weights)
    assert stock["error"] is None
    assert stock["launch"] == "torch.compile; CUDA graphs"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_cuda_graphs_are_captured_and_agree(model, weights):
    case = case_of(model, ["none", "n2d"], graphs=True)
    case = replace(case, device=torch.device("cuda"))
    for row in inference.run_case(case, weights):
        assert row["error"] is None
        if row["pipeline"] == "ours, graphs":
            assert row["launch"] == "CUDA graphs"
            assert row["difference"] < 1e-2
            assert row["memory_mib"] > 0
