"""The benchmark of the tools themselves: what is typed, what is read off logs. No timings."""

import json
import os
import sys

import cv2
import pytest
import torch
from mmengine.config import Config
from rich.console import Console

pytest.importorskip("mmseg")


from mmseg_tome.cli import benchmark
from mmseg_tome.lab.bench import networks
from mmseg_tome.lab.bench.as_typed import (
    data,
    logs,
    losses,
    runs,
    session,
    summary,
    variants,
)
from mmseg_tome.lab.bench.as_typed.variants import STOCK, TASKS, Run, Workspace

SIZE = (64, 128)
TEST_LINE = (
    "2026/11/29 06:00:00 - mmengine - INFO - Iter(test) [{:>3}/240]    eta: 0:00:10  "
    "time: {:.6f}  data_time: {:.6f}  memory: {}  "
)


def arguments(tmp_path, *options):
    common = ("--folder", str(tmp_path / "place"), "--out", str(tmp_path / "out"))
    small = ("--images", "4", "--size", "64x128", "--rounds", "2", "--warmup", "20")
    return benchmark.parse_args(["--as-typed", *options, *small, *common])


class Tools:
    """In place of the tools: leaves the logs that they would leave."""

    def __init__(self, seconds, refuse=(), metric=0.5):
        self.seconds, self.refuse, self.metric = seconds, refuse, metric
        self.commands = []

    def __call__(self, command, folder, timeout):
        if "mmseg_tome.lab.bench.as_typed.attention" in command:
            seen = dict.fromkeys(command[6:], "fused")
            return 0, json.dumps(dict.fromkeys(command[5].split(","), seen))
        self.commands.append(command)
        work_dir = folder / command[command.index("--work-dir") + 1]
        variant = work_dir.name.split("-b0-")[1].split("-")[0]
        if variant in self.refuse:
            return 1, "Traceback\nRuntimeError: no such kernel\n"
        lines = [
            TEST_LINE.format(i, self.seconds[variant] * (9 if i <= 20 else 1), 0.001, 1000 + i)
            for i in range(10, 61, 10)
        ]
        lines.append("2026 - mmengine - INFO - test: the network runs by CUDA graphs in float32")
        (work_dir / "20261129").mkdir(parents=True, exist_ok=True)
        (work_dir / "20261129" / "20261129.log").write_text("\n".join(lines))
        (work_dir / "20261129" / "20261129.json").write_text(json.dumps({"mIoU": self.metric}))
        return 0, ""


def result(tmp_path):
    return json.loads((tmp_path / "out" / "as_typed.json").read_text())


# --- logs ---


def test_lines_of_both_loops_are_read():
    epoch = (
        "11/29 - mmengine - INFO - Epoch(test) [10/63]    eta: 0:00:01  "
        "time: 0.100000  data_time: 0.010000  "
    )
    train = (
        "11/29 - mmengine - INFO - Iter(train) [    20/160000]  base_lr: 1.2e-09 lr: 1.2e-09  "
        "eta: 1 day, 2:00:01  time: 0.200000  data_time: 0.020000  memory: 47000  loss: 2.900000"
    )
    end = "11/29 - mmengine - INFO - Iter(test) [63/63]    mIoU: 1.2  data_time: 0.1  time: 9.0"
    first, second = logs.read_windows("\n".join([epoch, train, end]))
    assert first == logs.Window(10, 0.1, 0.01, None)
    assert second == logs.Window(20, 0.2, 0.02, 47000)


def test_what_began_in_the_warm_up_is_left_out():
    windows = [logs.Window(i, i, 0) for i in (10, 20, 30, 40)]
    assert logs.steady(windows, 20) == windows[2:]
    assert logs.steady(windows, 11) == windows[2:]
    with pytest.raises(ValueError, match=r"1 windows .* the run is too short"):
        logs.steady(windows, 25)


def test_windows_are_shorter_in_short_runs():
    assert [logs.window_of(n) for n in (100, 40, 12, 1)] == [10, 10, 3, 1]


def test_what_the_tools_say_is_kept_and_nothing_else():
    text = "\n".join(
        [
            "2026 - mmengine - INFO - training: the backbone runs by CUDA graphs",
            "2026 - mmengine - INFO - Iter(train) [20/80] time: 1",
            "        type='mmseg_tome.FastTrainingHook'),",
            "2027 - mmengine - INFO - training: the backbone runs by CUDA graphs",
            "warning: --launch graphs has no effect: there is no GPU",
        ]
    )
    assert logs.said(text) == [
        "training: the backbone runs by CUDA graphs",
        "warning: --launch graphs has no effect: there is no GPU",
    ]


# --- what is typed ---


def test_ours_is_typed_as_the_readme_has_it(tmp_path, repo):
    place = Workspace(tmp_path)
    run = Run(TASKS["test-slide"], "b5", "fast")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "cityscapes_b5.pth").touch()
    command = place.command(run, ["a=1"])
    assert command[1:4] == [
        str(repo / "tools/test.py"),
        str(repo / "configs/segformerpp_fast_cityscapes.py"),
        str(tmp_path / "checkpoints/cityscapes_b5.pth"),
    ]
    assert command[4:] == ["--work-dir", f"work_dirs/{run.name}", "--cfg-options", "a=1"]


def test_switches_and_processes_are_typed(tmp_path, repo):
    place = Workspace(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "cityscapes_b0.pth").touch()
    test = Run(TASKS["test-slide"], "b0", "none", "bfloat16", "eager")
    assert test.switches == ["--dtype", "bfloat16", "--launch", "eager"]
    train = TASKS["train"]
    assert Run(train, "b0", "none").switches == ["--amp"]
    assert Run(train, "b0", "none", "bfloat16").switches == ["--dtype", "bfloat16"]
    command = place.command(Run(train, "b0", "none", gpus=2), [])
    config = repo / "configs/b0/segformerpp_b0_none_cityscapes.py"
    assert command[:4] == ["bash", str(repo / "tools/dist_train.sh"), str(config), "2"]
    assert "model.backbone.init_cfg=None" in command


@pytest.mark.parametrize("case", ["test-slide", "test-whole", "train", "pose-coco", "pose-jbd"])
def test_nothing_of_ours_is_left_in_stock(case, tmp_path):
    if case.startswith("pose"):
        pytest.importorskip("mmpose")
    path = Workspace(tmp_path).config(Run(TASKS[case], "b5", STOCK))
    cfg = Config.fromfile(path)
    types = {part["type"] for part in variants._dicts(cfg._cfg_dict) if "type" in part}
    ours = {kind for kind in types if kind.startswith("mmseg_tome.")}
    assert ours == ({"mmseg_tome.JumpBroadcastDataset"} if case == "pose-jbd" else set())
    assert "mmseg.MixVisionTransformer" in types
    for left in ("constructor", "collate_fn", "tome_cfg", "fast_inference", "pin_memory"):
        assert left not in path.read_text()
    ours = Config.fromfile(variants.config_path("b5", "none", TASKS[case].config))
    for stage in ("train", "test"):
        assert cfg[f"{stage}_dataloader"].batch_size == ours[f"{stage}_dataloader"].batch_size
        assert cfg[f"{stage}_dataloader"].num_workers == ours[f"{stage}_dataloader"].num_workers


def test_something_new_of_ours_is_noticed():
    cfg = Config.fromfile(variants.config_path("b0", "none", "cityscapes"))
    cfg.val_evaluator = dict(type="mmseg_tome.NewMetric")
    with pytest.raises(networks.UsageError, match=r"stock variant would have a mmseg_tome\.NewM"):
        variants.make_stock(cfg)


def test_stock_and_ours_share_their_weights(tmp_path):
    run = Run(TASKS["test-slide"], "b0", "fast")
    place = Workspace(tmp_path)
    path = place.make_checkpoint(run)
    keys = {}
    for variant in (STOCK, "fast"):
        cfg = Config.fromfile(place.config(Run(TASKS["test-slide"], "b0", variant)))
        keys[variant] = {k: v.shape for k, v in variants.build(cfg).state_dict().items()}
    assert keys[STOCK] == keys["fast"]
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert {k: v.shape for k, v in weights.items()} == keys[STOCK]
    other = Workspace(tmp_path / "other").make_checkpoint(run)
    again = torch.load(other, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_a_whole_image_and_a_toy_size(tmp_path):
    place = Workspace(tmp_path, (64, 128))
    cfg = Config.fromfile(place.config(Run(TASKS["test-whole"], "b0", "fast")))
    assert cfg.model.test_cfg == dict(mode="whole")
    assert cfg.model.backbone.tome_cfg == "fast"
    cfg = Config.fromfile(place.config(Run(TASKS["test-slide"], "b0", "fast")))
    assert cfg.model.test_cfg.crop_size == (64, 64)
    assert cfg.model.test_cfg.stride == (48, 48)
    assert cfg.test_dataloader.dataset.pipeline[1]["scale"] == (128, 64)


# --- data ---


def test_data_have_the_names_of_the_real_ones(tmp_path):
    made = data.Data(images=3, different=2, size=SIZE)
    made.make(tmp_path, data.MAKERS)
    for split, city in data.SPLITS.items():
        stem = f"{city}/{city}_000002_000019"
        image = tmp_path / f"cityscapes/leftImg8bit/{split}/{stem}_leftImg8bit.png"
        labels = tmp_path / f"cityscapes/gtFine/{split}/{stem}_gtFine_labelTrainIds.png"
        assert cv2.imread(str(image)).shape == (*SIZE, 3)
        found = set(cv2.imread(str(labels), cv2.IMREAD_UNCHANGED).flat)
        assert len(found) > 5
        assert found <= {*range(19), 255}
        for file, folder, size, persons in (
            (
                f"coco/annotations/person_keypoints_{split}2017.json",
                f"coco/{split}2017",
                (480, 640),
                4,
            ),
            (
                f"jump_broadcast/annotations/{split}_jump.json",
                f"jump_broadcast/images/{split}",
                (720, 1280),
                1,
            ),
        ):
            content = json.loads((tmp_path / file).read_text())
            names = [image["file_name"] for image in content["images"]]
            assert len(content["annotations"]) == len(names) * persons == 12
            assert cv2.imread(str(tmp_path / folder / names[-1])).shape == (*size, 3)


def test_data_are_always_the_same_and_made_once(tmp_path):
    for place in ("one", "other"):
        data.Data(2, 2, SIZE).make(tmp_path / place, ["cityscapes"])
    one, other = (
        tmp_path / place / "cityscapes/originals/1_image.png" for place in ("one", "other")
    )
    assert one.read_bytes() == other.read_bytes()
    one.write_bytes(b"kept")
    data.Data(2, 2, SIZE).make(tmp_path / "one", ["cityscapes"])
    assert one.read_bytes() == b"kept"
    data.Data(3, 2, SIZE).make(tmp_path / "one", ["cityscapes"])
    assert one.read_bytes() == other.read_bytes()


# --- a session ---


def test_rounds_take_turns_and_ratios_are_of_medians(tmp_path, capsys):
    tools = Tools({STOCK: 0.12, "none": 0.06, "fast": 0.04})
    args = arguments(tmp_path, "test-slide", "--presets", "none", "fast", "--models", "b0")
    assert benchmark_run(args, tools) == 0
    order = [c[c.index("--work-dir") + 1].split("-b0-")[1].split("-")[0] for c in tools.commands]
    assert order == [STOCK, "none", "fast"] * 2
    found = result(tmp_path)
    stock, none, fast = found["table"]
    assert stock["seconds"] == pytest.approx(0.12)  # without the slow warm-up
    assert fast["vs_stock"] == pytest.approx(3)
    assert fast["vs_none"] == pytest.approx(1.5)
    assert stock["vs_none"] is None
    assert none["data_share"] == pytest.approx(1 / 60)
    assert none["allocated_mib"] == 1060
    assert fast["metrics"] == {"mIoU": 0.5}
    assert len(found["runs"]) == 6
    assert found["runs"][0]["said"] == ["test: the network runs by CUDA graphs in float32"]
    assert found["environment"]["attention"]["float32"]["test-slide fast"] == "fused"
    assert set(found["definitions"]) - {"stock", "difference", "noise", "said"} <= set(fast)
    printed = capsys.readouterr().out
    assert "3.00x" in printed
    assert "the network runs by CUDA graphs" in printed


def test_ours_in_half_precision_is_compared_with_stock_as_it_is(tmp_path):
    tools = Tools({STOCK: 0.12, "none": 0.06})
    options = ("--presets", "none", "--models", "b0", "--dtype", "float32", "bfloat16")
    assert benchmark_run(arguments(tmp_path, "test-slide", *options), tools) == 0
    assert [row["vs_stock"] for row in result(tmp_path)["table"]] == pytest.approx([1, 2, 2])


def test_a_run_that_fails_is_said_and_others_go_on(tmp_path, capsys):
    tools = Tools({STOCK: 0.12, "none": 0.06}, refuse=("none",))
    args = arguments(tmp_path, "test-slide", "--presets", "none", "--models", "b0")
    assert benchmark_run(args, tools) == 1
    stock, none = result(tmp_path)["table"]
    assert stock["error"] is None
    assert none["error"] == "exit code 1: RuntimeError: no such kernel"
    assert "Traceback" in result(tmp_path)["runs"][1]["output_tail"]
    assert "test-slide, none: exit code 1" in capsys.readouterr().err


def test_nothing_starts_after_the_time_limit(tmp_path):
    args = arguments(tmp_path, "test-slide", "--presets", "none", "--models", "b0")
    args.time_limit = 0.0
    tools = Tools({STOCK: 0.12, "none": 0.06})
    assert benchmark_run(args, tools) == 1
    assert not tools.commands
    assert {row["error"] for row in result(tmp_path)["table"]} == {
        "not run: the time limit was reached"
    }


def test_a_command_that_takes_too_long_is_stopped_with_its_children(tmp_path):
    script = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    with pytest.raises(TimeoutError, match="begun"):
        runs.execute([sys.executable, "-c", script], tmp_path, 2)


def test_the_gpus_memory_is_watched(tmp_path, monkeypatch):
    """A stand-in for `nvidia-smi` that sees two GPUs, again and again if asked to."""
    answer = 'printf "%s\\n" 900 "[N/A]" 1200 1000'
    script = tmp_path / "nvidia-smi"
    script.write_text(f'#!/bin/sh\n{answer}\ncase "$*" in *loop*) sleep 60;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    command = [sys.executable, "-c", "import time; time.sleep(1)"]
    place = Workspace(tmp_path, SIZE)
    run = Run(TASKS["train"], "b0", "none")
    assert runs.run(place, run, command, runs.Budget()).gpu_mib == 1200


def test_without_a_gpu_no_memory_is_watched(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with runs.peak_memory() as peak:
        pass
    assert peak.mib is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "b9"], "unknown model 'b9'"),
        (["--presets", "best"], "unknown preset 'best'"),
        (["--presets", "hq-turbo"], "there is no config configs/b0/segformerpp_b0_hq-turbo"),
        (["--gpus", "0"], "--gpus must be at least 1"),
        (
            ["--models", "b2", "--as-typed", "pose-coco"],
            "there is no config configs/b2/segformerpp",
        ),
    ],
)
def test_mistakes_are_usage_errors(tmp_path, capsys, options, message):
    place = ["--folder", str(tmp_path / "place"), "--out", str(tmp_path / "out")]
    assert benchmark.main(["--as-typed", "test-slide", *place, *options]) == 2
    assert message in capsys.readouterr().err


def benchmark_run(args, tools):
    return session.run(args, Console(width=160), start=tools)


# --- losses ---


def test_losses_are_compared_step_by_step(tmp_path):
    def tool(command, folder, timeout):
        work_dir = folder / command[command.index("--work-dir") + 1]
        values = [2.0, 1.0]
        if "graphs" in work_dir.name:
            values = [2.0, 1.02]
        elif work_dir.name.endswith("-1"):
            values = [2.02, 1.0]
        (work_dir / "now" / "vis_data").mkdir(parents=True)
        lines = [json.dumps({"loss": value, "step": i}) for i, value in enumerate(values)]
        (work_dir / "now" / "vis_data" / "scalars.json").write_text("\n".join(lines))
        return 0, ""

    (compared,) = losses.runs_of("b0", ["none"], ["float32"], [1])
    assert {key: run.launch for key, run in compared.items()} == {
        "graphs": "graphs", "eager": "eager", "again": "eager",
    }  # fmt: skip
    assert len({run.name for run in compared.values()}) == 3
    place = Workspace(tmp_path, SIZE)
    row = losses.compare(place, compared, [], runs.Budget(), tool)
    assert row["steps"] == 2
    assert row["difference"] == pytest.approx(0.02)
    assert row["noise"] == pytest.approx(0.01)
    assert row["error"] is None
    assert losses.largest_difference([1.0], [1.0, 2.0]) is None


def test_more_gpus_are_compared_with_one():
    rows = []
    for gpus, seconds in ((1, 0.1), (2, 0.125)):
        row = summary.new_row(Run(TASKS["train"], "b0", "fast", gpus=gpus), 4 * gpus, "64x128")
        rows.append(row | {"seconds": seconds, "data_share": 0.0})
    one, two = summary.summarise(rows)
    assert one["speedup"] is None
    assert two["speedup"] == pytest.approx(1.6)
