"""The benchmark tool: an honest peer, right counts, complete reports, clear errors. No timings."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("mmseg")
pytest.importorskip("tomesd")

from mmseg_tome.cli import benchmark
from mmseg_tome.errors import CheckpointError, UserError
from mmseg_tome.files import replacing
from mmseg_tome.lab.bench import benchmark as bench
from mmseg_tome.lab.bench import (
    cases,
    inference,
    measure,
    networks,
    peer,
    results,
    tables,
)
from mmseg_tome.lab.bench.flops import attention_backend, count_flops

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (128, 160)
"""Small, but every stage's grid holds at least one 4x4 cell."""

PEERED = [preset for preset in networks.PRESETS if not preset.endswith(("turbo", "auto", "prop"))]
"""What the peer has as well: the authors do not reuse slot maps."""


def outputs(model, variants, size=SIZE, batch=1):
    """`{(variant, pipeline): output}` on one set of weights and one input, in float32."""
    args = benchmark.parse_args([])
    weights = bench.initial_weights(model, args)
    case = cases.Case(model, size, batch, "float32", torch.device("cpu"), cases.Settings())
    return {
        (variant, pipeline): case.forward(
            inference.build(case, variant, networks.RECIPES[pipeline], weights), case.image()
        )()
        for variant in variants
        for pipeline in ("ours", "peer")
    }


@pytest.fixture(scope="module")
def b0_outputs(mixed):
    model = networks.preset_model("b0", PEERED)
    model.variants["mixed"] = {"tome_cfg": mixed}
    return outputs(model, model.variants, batch=2)


@pytest.mark.parametrize("preset", [*PEERED, "mixed"])
def test_peer_computes_the_same_function(b0_outputs, preset):
    ours, stock = b0_outputs[preset, "ours"], b0_outputs[preset, "peer"]
    assert measure.relative_difference(ours, stock) < 1e-4


@pytest.mark.parametrize("preset", ["hq", "fast", "n2d", "mixed"])
def test_the_peer_really_merges(b0_outputs, preset):
    """Otherwise the comparison above would say nothing."""
    merged, plain = b0_outputs[preset, "peer"], b0_outputs["none", "peer"]
    assert measure.relative_difference(merged, plain) > 1e-2


@pytest.mark.parametrize("preset", ["hq", "fast", "n2d"])
def test_peer_agrees_where_a_grid_is_smaller_than_a_cell(preset):
    found = outputs(networks.preset_model("b0", [preset]), [preset], size=(32, 72))
    assert measure.relative_difference(found[preset, "ours"], found[preset, "peer"]) < 1e-4


def test_peer_weights_lie_in_memory_as_the_stock_model_has_them():
    """Channels-last weights would change the layout of the peer's convolutions, and its speed."""
    model = networks.preset_model("b0", ["none"])
    stock = networks.build(model, {}, of_peer=True).state_dict()
    given = bench.initial_weights(model, benchmark.parse_args([]))["peer"]
    assert {k: v.stride() for k, v in given.items()} == {k: v.stride() for k, v in stock.items()}


def test_a_stock_block_without_merging_stays_untouched():
    net = networks.build(networks.preset_model("b0", ["hq"]), {"tome_cfg": "hq"}, of_peer=True)
    kinds = [type(blocks[0].attn).__name__ for _, blocks, _ in net.backbone.layers]
    assert kinds == ["PeerAttention"] * 4
    net = networks.build(networks.preset_model("b0", ["none"]), {}, of_peer=True)
    assert type(net.backbone.layers[0][1][0].attn) is peer.EfficientMultiheadAttention


def test_peer_refuses_a_strategy_it_does_not_have():
    with pytest.raises(ValueError, match="no merging mode 'tome'"):
        peer.stages_of([dict(q=dict(mode="tome", ratio=0.5))] + [dict()] * 3, 4)
    with pytest.raises(ValueError, match="it has no reuse"):
        peer.stages_of("hq-turbo", 4)
    with pytest.raises(ValueError, match="it does not choose"):
        peer.stages_of("hq-auto", 4)
    with pytest.raises(ValueError, match="counts every merged key once"):
        peer.stages_of("hq-prop", 4)


# --- FLOPs, memory, time ---


@pytest.mark.parametrize("of_peer", [False, True])
def test_flops_of_one_block_by_hand(one_block, of_peer):
    """8x8 tokens of 8 channels; 32 queries stay, 16 reduced keys/values become 4."""
    _, forward = one_block(of_peer)
    _, flops = count_flops(forward)
    multiply_adds = {
        "patch embedding, 7x7": 64 * 3 * 49 * 8,
        "spatial reduction, 2x2": 16 * 8 * 4 * 8,
        "matching: 48 sources to 16 destinations": 48 * 16 * 8,
        "queries": 32 * 8 * 8,
        "keys and values": 4 * 8 * 16,
        "attention, both products": 2 * 32 * 4 * 8,
        "output projection": 32 * 8 * 8,
        "MixFFN": 64 * 8 * 32 + 64 * 32 * 9 + 64 * 32 * 8,
    }
    assert sum(flops.values()) == 2 * sum(multiply_adds.values())


def test_fused_and_materialised_attention_count_alike():
    q, kv = torch.randn(2, 3, 20, 8), torch.randn(2, 3, 10, 8)
    _, fused = count_flops(lambda: F.scaled_dot_product_attention(q, kv, kv))
    _, plain = count_flops(lambda: (q @ kv.transpose(2, 3)).softmax(-1) @ kv)
    assert sum(fused.values()) == sum(plain.values()) == 2 * 2 * (2 * 3 * 20 * 10 * 8)
    assert attention_backend(fused).startswith("fused (_scaled_dot_product")
    assert attention_backend(plain).startswith("materialised")


def test_peak_memory_sees_what_is_freed_again():
    grown, how = measure.peak_memory(
        lambda: torch.ones(64, 2**18).sum(), torch.device("cpu")
    )  # 64 MiB
    if grown is None:
        assert how.startswith("not measured: ")
        pytest.skip(how)
    assert 63 < grown < 80
    assert "VmHWM" in how


def test_variants_take_turns():
    """Each once per round, and each in every place of the order."""
    calls = []
    forwards = [lambda i=i: calls.append(i) for i in range(3)]
    samples = measure.time_in_turns(forwards, 3, torch.device("cpu"), min_sample_s=0.0)
    assert calls[3:] == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert [len(s) for s in samples] == [3, 3, 3]


def test_summary():
    found = measure.summarise([5.0, 1.0, 2.0, 4.0, 3.0])
    assert found == {"median": 3.0, "q1": 2.0, "q3": 4.0, "min": 1.0, "max": 5.0}
    assert set(measure.summarise([7.0]).values()) == {7.0}


# --- models from configs ---


def test_configs_that_differ_in_merging_share_a_model(tiny_config, mixed):
    (model,) = networks.config_models([tiny_config("a", "hq"), tiny_config("b", mixed)])
    assert list(model.variants) == ["none", "a", "b"]
    assert model.size == (64, 96)
    assert model.head["norm_cfg"]["type"] == "BN"
    assert "init_cfg" not in model.backbone


def test_pose_configs_run_beside_a_plain_head(repo):
    """At the size of the config's codec; the peer's head concatenates, ours does not."""
    pytest.importorskip("mmpose")
    files = [repo / f"configs/b0/segformerpp_b0_{preset}_coco.py" for preset in ("none", "hq")]
    (model,) = networks.config_models(list(map(str, files)))
    assert list(model.variants) == [file.stem for file in files]
    assert model.size == (384, 288)
    found = outputs(model, model.variants, size=(96, 72))
    for variant in model.variants:
        ours, stock = found[variant, "ours"], found[variant, "peer"]
        assert ours.shape == (1, 17, 24, 18)
        assert measure.relative_difference(ours, stock) < 1e-4
    concatenated = []
    net = networks.build(model, {}, of_peer=True)
    net.head.fusion_conv.register_forward_pre_hook(lambda _, x: concatenated.append(x[0].shape[1]))
    net(torch.randn(1, 3, 96, 72))
    assert concatenated == [4 * 256]


def test_presets_are_built_as_the_repository_configs_have_them():
    model = networks.preset_model("b5", ["none"])
    assert model.backbone["num_layers"] == [3, 6, 40, 3]
    assert model.backbone["embed_dims"] == 64
    assert model.head["num_classes"] == 19


def test_checkpoint(tiny_config, tmp_path):
    (model,) = networks.config_models([tiny_config("a")])
    saved = networks.build(model, {}, of_peer=False)
    weights = {k.replace("head.", "decode_head.", 1): v for k, v in saved.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "k.pth")
    net = networks.build(model, {}, of_peer=False)
    networks.load_checkpoint(net, str(tmp_path / "k.pth"))
    torch.testing.assert_close(net.state_dict(), saved.state_dict())
    del weights["decode_head.conv_seg.weight"]
    torch.save({"state_dict": weights}, tmp_path / "k.pth")
    with pytest.raises(CheckpointError, match=r"does not fit the model: it lacks 1 of .*conv_seg"):
        networks.load_checkpoint(net, str(tmp_path / "k.pth"))


# --- whole runs ---


def test_a_run_reports_everything(run, tmp_path, capsys, tiny_config):
    config = tiny_config("tiny_fast", "fast")
    code, found = run("--configs", config, "--size", "64x64", "96x128", "--batch", "2")
    assert code == 0
    rows = found["results"]
    assert [(r["size"], r["variant"], r["pipeline"]) for r in rows] == [
        (size, variant, pipeline)
        for size in ("64x64", "96x128")
        for variant in ("none", "tiny_fast")
        for pipeline in ("ours", "peer")
    ]
    none, none_peer, fast, fast_peer = rows[4:]
    median = [r["latency_ms"]["median"] for r in rows[4:]]
    assert fast["vs_peer"] == pytest.approx(median[3] / median[2])
    assert fast["vs_none"] == pytest.approx(median[0] / median[2])
    assert fast_peer["vs_none"] == pytest.approx(median[1] / median[3])
    assert fast_peer["vs_peer"] is None
    assert fast["images_per_s"] == pytest.approx(2e3 / median[2])
    assert fast["gflops"] < none["gflops"] < none_peer["gflops"]
    assert fast["tokens_kept"][2] == {"q": [48 - 43, 48], "kv": [12, 12]}
    assert fast["difference"] < 1e-4
    assert "scaled_dot_product" in fast["attention"]
    assert fast_peer["attention"].startswith("materialised")
    assert len(fast["samples_ms"]) == 2
    assert found["environment"]["versions"]["torch"] == torch.__version__
    assert found["environment"]["threads"] == torch.get_num_threads()
    assert found["arguments"]["batch"] == [2]
    assert set(found["definitions"]) <= set(none) | {"peer"}
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["benchmark.json", "benchmark.png", "presets.png"]
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for expected in ("tiny_fast", "peer", "x none", "GFLOPs", "VmHWM", "tomesd", "96x128"):
        assert expected in printed


def test_a_run_of_every_pipeline(run, capsys, tiny_config):
    flags = ["--fused-peer", "--graphs"]
    code, found = run("--configs", tiny_config("tiny", "hq"), *flags)
    assert code == 0
    ours, graphs, stock, fused = found["results"][4:]
    assert [r["pipeline"] for r in (ours, graphs, stock, fused)] == list(networks.RECIPES)[:4]
    assert set(found["definitions"]["pipeline"]) == set(networks.RECIPES)
    assert stock["attention"].startswith("materialised")
    assert fused["attention"].startswith("fused")
    assert graphs["launch"] == ours["launch"] == "eager"  # a CPU has no graphs
    assert max(graphs["difference"], fused["difference"]) < 1e-4
    printed = capsys.readouterr().out
    assert "x fused peer" in printed
    assert "Launch, ours, graphs: eager" in printed
    assert "Launch, ours:" not in printed


def test_a_run_of_training(run, tmp_path, capsys, tiny_config):
    code, found = run("--configs", tiny_config("tiny"), "--train", "--fused-peer")
    assert code == 0
    rows = found["results"]
    assert [r["pipeline"] for r in rows] == ["ours", "peer", "fused peer"]
    assert {r["mode"] for r in rows} == {"training"}
    assert {len(r["samples_ms"]) for r in rows} == {2}
    assert set(found["definitions"]["training"]) <= set(rows[0]) | {"loss"}
    printed = capsys.readouterr().out
    assert "model, training step" in printed
    assert "Outputs of training are not compared" in printed
    assert "difference" not in printed.split("Outputs of training")[0]
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_backbone_alone_without_peer_under_autocast(run, tiny_config):
    flags = ["--part", "backbone", "--no-peer", "--dtype", "bfloat16", "--autocast"]
    code, found = run("--configs", tiny_config("tiny"), *flags)
    (row,) = found["results"]
    assert code == 0
    assert row["size"] == "64x96"  # the config's
    assert row["dtype"] == "bfloat16 autocast"
    assert row["vs_peer"] is row["difference"] is None


def test_a_different_function_fails_the_run(run, capsys, monkeypatch, tiny_config):
    monkeypatch.setitem(
        peer.PRESETS, "n2d", (peer.StageMerges(q=peer.Merge("n2d", stride=(4, 4))),) * 4
    )
    code, found = run("--configs", tiny_config("tiny", "n2d"))
    assert code == 1
    assert found["results"][2]["difference"] > bench.MAX_DIFFERENCE["float32"]
    assert "tiny: outputs differ from the peer's by" in capsys.readouterr().err
    code, _ = run("--configs", tiny_config("tiny", "n2d"), "--no-check")
    assert code == 0


def test_a_peer_that_fails_does_not_take_the_run_along(run, monkeypatch, tiny_config):
    def fail(self, x, hw_shape, identity=None):
        raise RuntimeError("out of memory\nand a long story")

    monkeypatch.setattr(peer.PeerAttention, "forward", fail)
    code, found = run("--configs", tiny_config("tiny", "n2d"))
    assert code == 0
    ours, failed = found["results"][2:]
    assert failed["error"] == "RuntimeError: out of memory"
    assert failed["latency_ms"] is None
    assert ours["latency_ms"]["median"] > 0


# --- errors ---


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--presets", "hq", "best"], "unknown preset 'best'; allowed: none, hq, fast, n2d"),
        (["--models", "b6"], "unknown model 'b6'; allowed: b0, b1"),
        (["--size", "16x64"], "size 16x64 is too small for b0: sides must be at least 32"),
        (["--presets", "downsample", "--size", "48x64"], "b0 with downsampling: sides must be"),
        (["--size", "64"], "--size 64 is not HxW"),
        (["--device", "cuda:99"], "device 'cuda:99' was requested, but torch sees"),
        (["--device", "abacus"], "unknown device 'abacus'"),
        (["--configs", "missing.py"], "no config file at missing.py"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--autocast"], "--autocast needs --dtype bfloat16 or float16"),
        (["--graphs", "--compile"], "--graphs and --compile are two ways to launch kernels"),
        (["--compiled-peer", "--compile"], "leave out --compiled-peer"),
        (["--train", "--breakdown"], "--breakdown takes a forward pass apart, not --train's"),
        (["--train", "--dtype", "float16"], "in float32: --dtype float16 needs --autocast"),
        (["--models", "b0", "b1", "--checkpoint", "k.pth"], "--checkpoint fits one model, 2 were"),
        (["--size", "64x64", "--checkpoint", "k.pth"], "checkpoint k.pth does not exist"),
    ],
)
def test_usage_errors(args, message, capsys, tmp_path):
    assert benchmark.main([*args, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark.py: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(", "cannot read config"),
        ("x = 1", "has no model with a backbone and a head"),
    ],
)
def test_unreadable_configs(text, message, capsys, tmp_path):
    (tmp_path / "bad.py").write_text(text)
    assert benchmark.main(["--configs", str(tmp_path / "bad.py")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_config_with_bad_merging(capsys, tmp_path, tiny_config):
    code = benchmark.main(["--configs", tiny_config("a", "best"), "--out", str(tmp_path / "out")])
    assert code == 2
    assert "error: a: unknown preset 'best'" in capsys.readouterr().err


def test_without_tomesd(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tomesd.merge", None)
    assert benchmark.main([]) == 2
    assert "pip install tomesd, or pass --no-peer" in capsys.readouterr().err
    assert benchmark.main(["--no-peer", "--fused-peer"]) == 2
    assert "pip install tomesd, or leave out --fused-peer" in capsys.readouterr().err


@pytest.mark.slow
def test_an_error_of_the_script_is_one_line(repo):
    done = subprocess.run(
        [sys.executable, repo / "tools" / "benchmark.py", "--presets", "best"],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PYTHONPATH": str(repo), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("benchmark.py: error: unknown preset 'best'")
    assert "Traceback" not in done.stderr


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "benchmark.json"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(UserError, match="disk full"), replacing(path) as temporary:
        fail(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_busy_machine_is_reported():
    assert tables.warning({"load_average": 0.3, "cpu_cores": 2}) is None
    assert tables.warning({"load_average": None, "cpu_cores": 2}) is None
    assert "load average 3.0 on 2 cores" in tables.warning({"load_average": 3.0, "cpu_cores": 2})


def test_ratios_without_a_measured_partner():
    rows = [
        results.empty_row("hq", "ours") | {"baseline": False, "latency_ms": {"median": 2.0}},
        results.empty_row("hq", "peer") | {"baseline": False},
    ]
    results.add_ratios(rows)
    assert [(r["vs_peer"], r["vs_none"]) for r in rows] == [(None, None)] * 2


def test_a_gpu_becomes_current_if_it_is_numbered(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device.index))
    for name in ("cpu", "cuda", "cuda:1"):  # torch refuses to make `cuda` current
        measure.make_current(torch.device(name))
    assert chosen == [1]


# --- Other backbones ---


def test_a_neck_is_part_of_the_network(repo):
    """DeiT's features go through one before the head, which would take others without."""
    (model,) = networks.config_models([str(repo / "configs/vit/deit_s16_fast_ade20k.py")])
    net = networks.build(model, model.variants["deit_s16_fast_ade20k"], of_peer=False)
    assert type(net.neck).__name__ == "MultiLevelNeck"
    with torch.inference_mode():
        assert net(torch.randn(1, 3, 64, 64)).shape[:2] == (1, 150)
    backbone = networks.build(model, {}, of_peer=False, part="backbone")
    assert isinstance(backbone.neck, torch.nn.Identity)


def test_other_backbones_have_no_peer(repo):
    (model,) = networks.config_models([str(repo / "configs/twins/twins_svt_s_hq_ade20k.py")])
    with pytest.raises(networks.UsageError, match=r"no peer of .*: pass --no-peer"):
        networks.build(model, {}, of_peer=True)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_have_the_models_channels(channels):
    model = networks.preset_model("b0", ["n2d"])
    model.backbone["in_channels"] = channels
    found = outputs(model, model.variants, size=(64, 96))
    assert set(found) == {("n2d", "ours"), ("n2d", "peer")}
    torch.testing.assert_close(found["n2d", "ours"], found["n2d", "peer"], rtol=1e-3, atol=1e-4)
