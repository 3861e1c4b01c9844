"""The demos' configs, table, pictures and a very short run; `make demo` runs the whole way."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmseg_tome import compat
from mmseg_tome.cli import demo as command
from mmseg_tome.lab.demo import run
from mmseg_tome.lab.demo.segmentation import Segmentation


@pytest.fixture(params=["segmentation", pytest.param("pose", marks=pytest.mark.slow)])
def task(request) -> run.Task:
    """Either demo, with a few scenes."""
    if not compat.has("mmpose" if request.param == "pose" else "mmseg"):
        pytest.skip(f"needs the package of {request.param}")
    if request.param == "segmentation":
        small = Segmentation(num_train=2, num_val=2)
        small.sizes = {"small": (256, 512), "large": (288, 512)}
        return small
    from mmseg_tome.lab.demo.pose import Pose

    small = Pose(num_train=2, num_val=2, num_shown=1)
    small.sizes = {"small": (256, 192), "large": (320, 256)}
    return small


def test_the_variants_are_one_network(task):
    rest, presets = [], {}
    for variant in run.VARIANTS:
        cfg = Config.fromfile(run.config(task, variant), import_custom_modules=False)
        presets[variant] = cfg.model.backbone.pop("tome_cfg")
        rest.append(cfg.to_dict())
    assert presets == dict(none=None, hq="hq", fast="fast", n2d="n2d")
    assert all(cfg == rest[0] for cfg in rest)


def test_a_very_short_run(task, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "VARIANTS", ("fast",))
    task.rounds = dict.fromkeys(task.sizes, 1)
    out = tmp_path / "out"
    run.run_demo(task, argparse.Namespace(out=out, iters=8, seed=0, keep=False))

    picture, numbers = f"demo{task.suffix}.png", f"results{task.suffix}.json"
    assert {path.name for path in out.iterdir()} == {picture, numbers}
    variants = json.loads((out / numbers).read_text())["variants"]
    assert list(variants) == ["fast"]
    assert variants["fast"]["tokens_kept"]["pairs"] < 20
    for row in variants.values():
        assert set(row["metrics"]) <= set(task.metrics)
        assert all(0 <= value <= 100 for value in row["metrics"].values())
        assert all(value > 0 for value in row["ms"].values())
    assert cv2.imread(str(out / picture)).std() > 30
    said = capsys.readouterr().out
    assert said.index("[1/5] rendering") < said.index("[5/5] drawing") < said.index(task.titles[1])


def test_the_columns_of_the_table_stand_below_their_titles():
    task = Segmentation()
    row = dict(
        metrics=dict(mIoU=1.0), tokens_kept=dict(q=2.0, kv=3.0, qkv=4.0), ms=dict(s=5.0, l=6.0)
    )
    results = dict(
        threads=3, sizes=dict(s=(8, 16), l=(64, 128)), variants={"none": row, "longer": row}
    )
    assert run.layout_table(task, results).splitlines() == [
        "       |   IoU %    | ms per image |        tokens kept %",
        "       | mIoU  thin | 8x16  64x128 | queries  keys/values  pairs",
        "-" * 64,
        "  none |  1.0   nan |  5.0     6.0 |     2.0          3.0    4.0",
        "longer |  1.0   nan |  5.0     6.0 |     2.0          3.0    4.0",
        "",
        *task.notes,
        "ms: the network alone, float32, 3 CPU threads, best of several rounds",
        "pairs: query-key pairs that attention compares; all tokens are summed over all blocks",
    ]


def test_the_picture_marks_keypoints_that_are_off(tmp_path):
    """One more prediction that is off is one more red ring, and nothing else changes."""
    if not compat.has("mmpose"):
        pytest.skip("needs mmpose")
    from mmseg_tome.lab.demo import pose
    from mmseg_tome.merging import SlotMap

    truth = np.random.default_rng(0).uniform(20, 170, (17, 2))
    slots = {
        (stage, 0, kind): (SlotMap(torch.arange(48)[None] // 4, 12), (8, 6))
        for stage in run.SHOWN_STAGES
        for kind in run.KINDS
    }
    row = dict(metrics={"PCK@0.05": 80.5, "AP": 61.0}, ms=dict(large=121.0))
    results = dict(sizes=dict(large=(1024, 768)), variants=dict(fast=row))

    def red(off: int) -> int:
        found = truth.copy()
        found[:off] += 20
        person = pose.Shown(
            image=np.full((256, 192, 3), 128, np.uint8),
            truth=truth,
            labelled=np.arange(17) != 16,  # the last one lies outside
            box=200.0,
            predictions=dict(fast=found),
            slots=dict(fast=slots),
        )
        pose.draw_persons([person], results, tmp_path / "x.png")
        blue, green, red = cv2.imread(str(tmp_path / "x.png")).astype(int).transpose(2, 0, 1)
        return int(((red > 200) & (green < 60) & (blue < 80)).sum())

    assert 0 < red(0) < red(1) < red(2)  # the legend shows a ring, too


def test_a_failing_command_is_reported_with_its_last_words(tmp_path):
    config = run.config(Segmentation(), "none")
    with pytest.raises(run.DemoError, match=r"(?s)test ended with code 2.*does not exist"):
        run.run_command("test", config, tmp_path / "missing.pth")


def test_a_demo_that_fails_leaves_nothing_but_what_was_there(tmp_path, monkeypatch):
    def fail(*_):
        raise run.DemoError("no paper")

    monkeypatch.setattr(run, "_demonstrate", fail)
    args = argparse.Namespace(out=tmp_path / "out", keep=True)
    with pytest.raises(run.DemoError):
        run.run_demo(Segmentation(), args)
    assert list(tmp_path.iterdir()) == []

    args.out.mkdir()
    (args.out / "results.json").write_text("earlier")
    with pytest.raises(run.DemoError):
        run.run_demo(Segmentation(), args)
    assert [path.name for path in args.out.iterdir()] == ["results.json"]
    assert (args.out / "results.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--height", "250"], "--height must be a multiple of 32"),
        (["pose", "--height", "512"], "--height is not for pose"),
        (["--iters", "7"], "--iters must be at least 8, not 7"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["scenes", "--val", "0"], "--val must be at least 1"),
        (["--out", __file__], "is not a folder"),
    ],
)
def test_bad_arguments_are_refused(capsys, options, message):
    with pytest.raises(SystemExit):
        command.parse_args(options)
    assert message in capsys.readouterr().err


def test_scenes_alone(tmp_path, capsys):
    out = tmp_path / "data" / "scenes"
    line = ["scenes", "--out", str(out), "--train", "1", "--val", "1"]
    assert command.main(line) == 0
    assert len(list(out.rglob("*_leftImg8bit.png"))) == 2
    assert str(out) in capsys.readouterr().out
    assert command.main(line) == 2
    assert "exists already" in capsys.readouterr().err


def test_without_mmpose_one_line_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compat, "has", lambda package: package != "mmpose")
    assert command.main(["pose", "--out", str(tmp_path / "out")]) == 2
    assert "tools/install_mmpose.sh" in capsys.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []
