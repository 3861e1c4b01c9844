"""Where the time goes: which part runs when, what it moves and computes, what is reported."""

import ast
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("mmseg")
pytest.importorskip("tomesd")


from mmseg_tome.cli import benchmark
from mmseg_tome.lab.bench import benchmark as bench
from mmseg_tome.lab.bench import (
    breakdown,
    cases,
    floor,
    inference,
    networks,
    parts,
    peer,
    rates,
)
from mmseg_tome.lab.bench.flops import OF_KERNELS, count_flops, watch_launches
from mmseg_tome.merging import SlotMap

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = (128, 160)
BYTE_RATES = rates.Rates(CPU, copy=1e3, matmul={"float32": float("inf")})
"""A device whose floor in milliseconds is the number of bytes."""

MERGING = {"match", "merge", "unmerge"}
EVERY_MODEL = {"embedding", "reduction", "attention", "ffn", "norms", "head"}


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch):
    monkeypatch.setattr(rates, "COPY_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(rates, "MATMUL_SIZES", {"cpu": (64, 128)})
    monkeypatch.setattr(rates, "MIN_RUN_S", 0.01)


@pytest.fixture(scope="module")
def b0():
    """`b0(preset, pipeline)`: the net of MiT-B0, its forward pass, and the case."""
    model = networks.preset_model("b0", list(networks.PRESETS))
    weights = bench.initial_weights(model, benchmark.parse_args([]))
    case = cases.Case(model, SIZE, 1, "float32", CPU, cases.Settings())

    def build(preset, pipeline):
        net = inference.build(case, preset, networks.RECIPES[pipeline], weights)
        forward = case.forward(net, case.image())
        forward()
        return net, forward

    return build


# --- what operators move ---


def recorded(function):
    recorder = floor.Recorder()
    with torch.inference_mode(), recorder:
        function()
    return recorder.operators


X, Y = torch.randn(4, 8), torch.randn(4, 8)  # 128 bytes each
TWO = torch.tensor([0, 2])  # 16 bytes


@pytest.mark.parametrize(
    ("function", "nbytes"),
    [
        (lambda: X + Y, 3 * 128),
        (lambda: X + X, 2 * 128),
        (lambda: X + 1, 2 * 128),
        (lambda: X + X[:1].expand(4, 8)[0], 2 * 128),  # a part of X is no more than X
        (lambda: Y + X[:1].expand(4, 8), 2 * 128 + 32),
        (lambda: X.add_(Y), 3 * 128),
        (lambda: X.mul_(1), 2 * 128),
        (lambda: X.copy_(Y), 2 * 128),
        (lambda: X.clone().zero_(), 3 * 128),
        (lambda: X[:2].add_(1), 2 * 64),
        (lambda: torch.add(X, Y, out=Y.clone()), 5 * 128),
        (lambda: X.t().contiguous(), 2 * 128),
        (lambda: X.contiguous().view(8, 4).t().unsqueeze(0).split(2, 1), 0),
        (lambda: X.to(torch.float32), 0),
        (lambda: X.double(), 128 + 256),
        (lambda: X.reshape(32), 0),
        (lambda: X[:2].detach().unsqueeze_(0), 0),
        (lambda: torch.empty(99), 0),
        (lambda: X.new_zeros(4), 16),
        (lambda: torch.ones_like(X), 128),
        (lambda: X.index_select(0, TWO), 64 + 16 + 64),
        (lambda: X[TWO], 64 + 16 + 64),
        (lambda: X.index_select(0, TWO.repeat(9)), 16 + 144 + 128 + 144 + 18 * 32),
        (lambda: X.index_add_(0, TWO, Y[:2]), 64 + 16 + 64 + 64),
        (lambda: X.index_copy_(0, TWO, Y[:2]), 16 + 64 + 64),
        (lambda: X.max(1), 128 + 4 * 4 + 4 * 8),
        (lambda: F.layer_norm(X, (8,), Y[0], Y[1]), 128 + 64 + 128 + 2 * 16),
        (lambda: F.interpolate(X[None, None], (8, 8), mode="bilinear"), 128 + 256),
    ],
)
def test_bytes_of_an_operator(function, nbytes):
    assert sum(op.nbytes for op in recorded(function)) == nbytes


def test_bytes_and_flops_of_known_modules():
    linear, conv = nn.Linear(8, 16), nn.Conv2d(3, 5, 3, padding=1)
    (op,) = recorded(lambda: linear(X))
    assert (op.flops, op.nbytes) == (2 * 4 * 8 * 16, 4 * (32 + 8 * 16 + 16 + 64))
    assert op.precision == "float32"
    image = torch.randn(2, 3, 6, 7)
    (op,) = recorded(lambda: conv(image))
    assert op.flops == 2 * 2 * 42 * 27 * 5
    assert op.nbytes == 4 * (2 * 3 * 42 + 135 + 5 + 2 * 5 * 42)
    q = torch.randn(1, 2, 10, 4)
    (op,) = [op for op in recorded(lambda: F.scaled_dot_product_attention(q, q, q)) if op.flops]
    assert op.flops == 2 * 2 * 2 * 10 * 10 * 4
    assert op.nbytes == pytest.approx(4 * 2 * 80, abs=2 * 10 * 4)  # and its log-sum-exp


def test_an_operator_of_our_own_counts_by_its_arguments():
    library = torch.library.Library("breakdown_test", "DEF")
    library.define("halve(Tensor x) -> Tensor")
    library.impl("halve", lambda x: x * 0.5 + 1 - 1, "CPU")
    (op,) = recorded(lambda: torch.ops.breakdown_test.halve(X))
    assert (op.name, op.nbytes) == ("halve", 2 * 128)


class Kernel:
    """What launching needs of a kernel that is no compiled one."""

    def __init__(self, fn):
        self.fn = fn
        self.arg_names = list(inspect.signature(fn).parameters)

    def __getitem__(self, grid):
        return self.fn


@pytest.fixture
def launch(monkeypatch):
    """Launch a Python function as if it were a kernel."""
    pytest.importorskip("triton")
    from mmseg_tome.ops import launching

    monkeypatch.setitem(OF_KERNELS, "double", lambda x, **_: x.numel())
    return lambda *args, **constants: launching.launch(Kernel(double), (1,), *args, **constants)


def double(x, out, n):
    out.numpy()[:] = 2 * x.numpy()


def test_a_kernel_outside_of_any_operator_counts_by_its_arguments(launch):
    def function():
        out = torch.empty_like(X)
        launch(X, out, n=32)
        launch(out, out, n=32)  # filled by now: only read

    recorder = floor.Recorder()
    with torch.inference_mode(), watch_launches(recorder.launch), recorder:
        function()
    assert [(op.name, op.nbytes, op.flops) for op in recorder.operators] == [
        ("empty_like", 0, 0),
        ("double", 2 * 128, 32),
        ("double", 128, 32),
    ]
    _, flops = count_flops(function)
    assert flops == {"double": 64}


def test_a_kernel_inside_of_an_operator_is_the_operators(launch):
    def twice(x):
        out = torch.empty_like(x)
        launch(x, out, n=32)
        return out

    library = torch.library.Library("breakdown_test_kernel", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", twice, "CPU")
    recorder = floor.Recorder()
    with torch.inference_mode(), watch_launches(recorder.launch), recorder:
        torch.ops.breakdown_test_kernel.twice(X)
    (op,) = recorder.operators
    assert (op.name, op.nbytes, op.flops) == ("twice", 2 * 128, 32)


def test_formulas_fit_the_kernels(repo):
    """By source: Triton is not installed everywhere."""
    found = {}
    for file in (repo / "mmseg_tome").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                found[node.name] = {argument.arg for argument in node.args.args}
    for name, formula in OF_KERNELS.items():
        needed = set(inspect.signature(formula).parameters) - {"_"}
        assert needed <= found.get(name, needed)
    assert OF_KERNELS["_match_kernel"](X[None], num_src=3, num_dst=1) == 2 * 3 * 8


def test_floor_is_the_larger_of_bytes_and_flops():
    call = parts.Call("head")
    read, write = (floor.Access(i, (), 100, 100) for i in range(2))
    operators = [
        floor.Operator("memory", call, [read], [write], 10, "float32"),
        floor.Operator("compute", call, [read], [write], 10**6, "bfloat16"),
    ]
    device = rates.Rates(CPU, copy=1e3, matmul={"float32": 1e3, "bfloat16": 1e6})
    found = floor.floors(operators, {1}, device)["head"]
    assert found["floor_ms"] == pytest.approx(200 + 1000)
    assert found["fused_floor_ms"] == pytest.approx(10 + 1000)  # one call: its FLOPs together
    assert found["gflops"] == pytest.approx(1000010e-9)
    assert found["mbytes"] == pytest.approx(400e-6)


def test_a_fused_part_moves_only_what_others_give_and_take():
    recorder = floor.Recorder()
    first, second = parts.Call("ffn"), parts.Call("ffn")
    with torch.inference_mode(), recorder:
        recorder.switch(first)
        hidden = F.relu(X + Y)  # reads X and Y; the sum stays inside
        unread = hidden * 2
        recorder.switch(second)
        result = (hidden + X + hidden.t().reshape(4, 8)).mul_(2)
        del unread
    found = floor.fused_bytes(recorder.operators, recorder.buffers(result))
    assert found == {first: 3 * 128, second: 3 * 128}


# --- which part runs when ---


def test_nested_parts_return_to_the_call_around_them(one_block):
    net, forward = one_block()
    calls = [parts.Call(parts.OTHER)]
    with parts.watch(net, calls.append):
        forward()
    assert calls[-1].part == parts.OTHER
    by_part = {part: [c for c in calls if c.part == part] for part in parts.PARTS}
    attention = by_part["attention"]
    assert len(set(attention)) == 1  # one call, left and taken up again
    inside = calls[calls.index(attention[0]) : len(calls) - calls[::-1].index(attention[0])]
    assert {c.part for c in inside} == {"attention", "reduction", "norms", "match", "merge"}
    assert len(set(by_part["embedding"])) == 1
    assert len(set(by_part["norms"])) == 4  # embedding, first of the block, reduction, stage
    assert len(set(by_part["unmerge"])) == 1  # with the second norm of the block


@pytest.mark.parametrize("of_peer", [False, True])
def test_parts_of_one_block_by_hand(one_block, of_peer):
    """The same FLOPs as in test_benchmark, each in its part, and the bytes of two parts."""
    found = floor.floors(*floor.record(*one_block(of_peer)), BYTE_RATES)
    multiply_adds = {
        "embedding": 64 * 3 * 49 * 8,
        "reduction": 16 * 8 * 4 * 8,
        "match": 48 * 16 * 8,
        "merge": 0,
        "unmerge": 0,
        "attention": 32 * 8 * 8 + 4 * 8 * 16 + 2 * 32 * 4 * 8 + 32 * 8 * 8,
        "ffn": 64 * 8 * 32 + 64 * 32 * 9 + 64 * 32 * 8,
        "norms": 0,
    }
    flops = {part: row["gflops"] * 1e9 for part, row in found.items()}
    flops.pop(parts.OTHER, None)
    assert flops == pytest.approx({part: 2 * n for part, n in multiply_adds.items()})
    conv = 4 * (64 * 8 + 8 * 8 * 4 + 8 + 16 * 8)
    assert found["reduction"]["floor_ms"] == pytest.approx(conv)
    assert found["reduction"]["fused_floor_ms"] == pytest.approx(conv)
    assert found["reduction"]["mbytes"] == pytest.approx(conv / 1e6)
    ffn = 4 * (64 * 8 + (8 * 32 + 32) + (32 * 9 + 32) + (32 * 8 + 8) + 64 * 8)
    residual = 4 * 64 * 8 if of_peer else 0  # the stock module adds it
    assert found["ffn"]["fused_floor_ms"] == pytest.approx(ffn + residual)


def state(net):
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in net.modules()]
    return dict(vars(SlotMap)), peer.make_merger, [(dict(a), dict(b)) for a, b in hooks]


@pytest.mark.parametrize("pipeline", ["ours", "peer"])
def test_everything_is_put_back(b0, pipeline):
    net, forward = b0("hq", pipeline)
    before, output = state(net), forward()
    breakdown.measure_parts(net, forward, CPU, 1, BYTE_RATES)
    assert state(net) == before
    torch.testing.assert_close(forward(), output, rtol=0, atol=0)

    def stop(_):
        raise KeyboardInterrupt

    with parts.watch(net, lambda _: None):
        assert state(net) != before
    with pytest.raises(KeyboardInterrupt), parts.watch(net, stop):
        forward()
    assert state(net) == before


@pytest.mark.parametrize(
    ("preset", "pipeline", "present"),
    [
        ("none", "ours", EVERY_MODEL | {parts.OTHER}),
        ("hq", "ours", EVERY_MODEL | {parts.OTHER} | MERGING),
        ("n2d", "ours", EVERY_MODEL | {parts.OTHER, "merge", "unmerge"}),  # a map that is kept
        ("none", "peer", EVERY_MODEL),
        ("hq", "peer", EVERY_MODEL | MERGING),
        ("downsample", "peer", EVERY_MODEL | {parts.OTHER}),
    ],
)
def test_parts_of_a_model(b0, preset, pipeline, present):
    net, forward = b0(preset, pipeline)
    found = breakdown.measure_parts(net, forward, CPU, 1, BYTE_RATES)
    # A residual that a kernel takes along leaves nothing for `other`.
    assert set(found) - {parts.OTHER} == (present | {parts.REST}) - {parts.OTHER}
    assert set(found) <= present | {parts.REST}
    assert list(found)[-1] == parts.REST
    _, flops = count_flops(forward)
    assert sum(row["gflops"] for row in found.values()) == pytest.approx(sum(flops.values()) / 1e9)
    for part, row in found.items():
        assert row["fused_floor_ms"] <= row["floor_ms"]
        assert row["floor_ms"] == pytest.approx(row["mbytes"] * 1e6)
        assert row["ms"] > 0 or part == parts.REST


def test_autocast_is_counted_in_its_own_precision(b0):
    net, _ = b0("hq", "ours")
    image = torch.randn(1, 3, 64, 64)

    def forward():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return net(image)

    operators, _ = floor.record(net, forward)
    assert {op.precision for op in operators if op.flops} >= {"bfloat16"}


# --- milliseconds ---


def mark(part, begin, end):
    event = {"cat": "user_annotation", "name": f"part: {part}", "ts": begin, "dur": end - begin}
    return event | {"args": {"External id": 1}}


def test_milliseconds_on_a_cpu_are_those_of_the_pieces():
    """Of microseconds; whatever else a trace holds does not count."""
    operators = [{"cat": "cpu_op", "name": "aten::mm", "ts": 1500.0, "dur": 700.0, "args": {}}]
    others = [{"ph": "M", "name": "process_name"}, mark("x", 0, 9) | {"name": "Optimizer.step"}]
    pieces = [("other", 1000, 2000), ("attention", 2000, 4000), ("match", 4000, 8000)]
    pieces += [("attention", 8000, 16000), ("other", 16000, 32000)]
    marks = [mark(*piece) for piece in pieces]
    found = breakdown.times_of_parts([*marks, *operators, *others])
    assert found == {"other": 17.0, "attention": 10.0, "match": 4.0}


def test_milliseconds_on_a_gpu_are_those_of_kernels_by_where_they_were_launched():
    """They run when the part that launched them is long over; waiting does not count."""

    def kernel(correlation, launched, begin, dur, kind="kernel", by="cuda_runtime"):
        args = {"correlation": correlation}
        launch = {"cat": by, "name": "launch", "ts": launched, "dur": 5.0, "args": args}
        return [launch, {"cat": kind, "name": "k", "ts": begin, "dur": dur, "args": args}]

    marks = [mark("other", 0, 10), mark("ffn", 10, 30), mark("match", 30, 50), mark("ffn", 50, 60)]
    work = [
        *kernel(7, 12, 1000, 250.0),
        *kernel(8, 28, 2000, 500.0, by="cuda_driver"),  # Triton's
        *kernel(9, 31, 3000, 64.0),
        *kernel(10, 55, 4000, 1000.0, kind="gpu_memcpy"),
        {"cat": "cuda_runtime", "name": "cudaDeviceSynchronize", "ts": 60, "dur": 1.0,
         "args": {"correlation": 11}},
    ]  # fmt: skip
    found = breakdown.times_of_parts([*reversed(work), *reversed(marks)])
    assert found == {"ffn": 1.75, "match": 0.064}


def test_a_trace_holds_every_piece_of_every_part(one_block):
    net, forward = one_block()
    calls = [parts.Call(parts.OTHER)]
    with parts.watch(net, calls.append):
        forward()
    marks = [e for e in breakdown.trace(net, forward, CPU) if e.get("cat") == "user_annotation"]
    marks.sort(key=lambda event: event["ts"])
    assert [event["name"] for event in marks] == [f"part: {call.part}" for call in calls]


# --- rates ---


def test_rates_are_measured_once_and_on_demand(monkeypatch):
    asked = []

    def rate(device, precision):
        asked.append(precision)
        if precision == "float16":
            raise RuntimeError('"addmm" not implemented for Half')
        return 1e9

    monkeypatch.setattr(rates, "matmul_rate", rate)
    found = rates.measure_rates(CPU, [torch.float32, torch.float16])
    assert found.seconds({"float32": 10**9, "": 0}) == 1
    assert found.seconds({"bfloat16": 10**9}) == 1
    assert asked == ["float32", "float16", "bfloat16"]
    assert found.report()["matmul_gflop_per_s"] == {"float32": 1, "bfloat16": 1}


def test_rates_of_this_machine():
    found = rates.measure_rates(CPU, [torch.float32])
    assert found.copy > 0
    assert found.matmul["float32"] > 0


def test_convolutions_may_use_tf32_where_products_do_not(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    gpu = torch.device("cuda")
    assert rates.precision_of(torch.float32, gpu, convolution=True) == "tf32"
    assert rates.precision_of(torch.float32, gpu) == "float32"
    assert rates.precision_of(torch.float32, CPU, convolution=True) == "float32"
    assert rates.precision_of(torch.bfloat16, gpu, convolution=True) == "bfloat16"


# --- whole runs ---


SMALL = ("--models", "b0", "--size", "64x96")


def test_a_run_reports_the_breakdown(run, tmp_path, capsys):
    code, found = run(*SMALL, "--presets", "none", "hq", "--breakdown", "--batch", "2", rounds=1)
    assert code == 0
    device = found["environment"]["rates"]["cpu"]
    assert device["copy_gb_per_s"] > 0
    assert device["matmul_gflop_per_s"]["float32"] > 0
    for row in found["results"]:
        total = sum(part["gflops"] for part in row["breakdown"].values())
        assert total == pytest.approx(2 * row["gflops"])
        assert ("match" in row["breakdown"]) == (row["variant"] == "hq")
        keys = set(row["breakdown"]["ffn"])
        assert keys == {"ms", "floor_ms", "fused_floor_ms", "gflops", "mbytes"}
        assert keys | set(row["breakdown"]) <= set(found["definitions"]["breakdown"])
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["benchmark.json", "benchmark.png", "breakdown.png"]
    assert (tmp_path / "out" / "breakdown.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for expected in ("Where the time goes", "fused floor", "unmerge", "GB/s", "breakdown.png"):
        assert expected in printed


def test_without_the_option_nothing_changes(run, tmp_path, capsys):
    _, found = run(*SMALL, "--presets", "none", "--no-peer", rounds=1)
    assert "breakdown" not in found["results"][0]
    assert "breakdown" not in found["definitions"]
    assert "rates" not in found["environment"]
    assert not (tmp_path / "out" / "breakdown.png").exists()
    assert "Where the time goes" not in capsys.readouterr().out


def test_a_breakdown_that_fails_keeps_the_latency(run, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory\nand a long story")

    monkeypatch.setattr(floor, "record", fail)
    code, found = run(*SMALL, "--presets", "none", "--no-peer", "--breakdown", rounds=1)
    (row,) = found["results"]
    assert code == 1
    assert row["latency_ms"]["median"] > 0
    assert row["breakdown"] is None
    assert row["breakdown_error"] == "RuntimeError: out of memory"
    printed = capsys.readouterr()
    assert "RuntimeError: out of memory" in printed.out
    assert "none: RuntimeError: out of memory" in printed.err
