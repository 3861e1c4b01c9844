"""`tools/train.py` and `tools/test.py` on real images: one process and two, killed and resumed."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmseg_tome import compat

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")


def metrics(work_dir: Path) -> dict:
    """The metrics of the latest test below `work_dir`."""
    return json.loads(max(work_dir.glob("2*/2*.json")).read_text())


def scores(work_dir: Path) -> dict:
    return {name: metrics(work_dir)[name] for name in ("aAcc", "mIoU", "mAcc")}


def scalars(work_dir: Path) -> list[dict]:
    """What the latest training below `work_dir` logged, a dict an entry."""
    return [json.loads(line) for line in max(work_dir.glob("2*/vis_data/scalars.json")).open()]


@pytest.fixture(scope="module")
def trained(repo, run_tool, environment, camvid_options, tmp_path_factory, camvid_config) -> Path:
    """Work dir of a training that was killed after its first checkpoint and then resumed."""
    work_dir = tmp_path_factory.mktemp("trained")
    args = [str(camvid_config), "--work-dir", str(work_dir), *camvid_options]
    command = [sys.executable, "-W", "ignore", "tools/train.py", *args, "train_cfg.max_iters=9999"]
    with (work_dir / "killed.log").open("w") as log:
        process = subprocess.Popen(command, cwd=repo, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while not (work_dir / "last_checkpoint").exists():
            assert process.poll() is None, (work_dir / "killed.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    latest = Path((work_dir / "last_checkpoint").read_text())
    iters = int(latest.stem.removeprefix("iter_"))
    stop = iters + 2
    out = run_tool(
        "train.py", *args[:3], "--resume", *args[3:],
        f"train_cfg.max_iters={stop}", f"train_cfg.val_interval={stop}",
    )  # fmt: skip
    *said, last = out.strip().splitlines()
    assert said[0] == f"resumed epoch: 0, iter: {iters}"
    assert re.search(rf"^Iter\(train\) \[{stop}/{stop}\]  eta: 0:00:00  loss: \d", out, re.M)
    assert re.match(r"Iter\(val\) \[4/4\]  aAcc: .*  mIoU: ", said[-1])
    assert last.startswith(f"written to {work_dir}: iter_{stop}.pth, log and metrics in 20")
    assert len(said) < 10  # on a slow machine with more than three lines of progress
    log = max(work_dir.glob("2*/*.log")).read_text()
    assert "System environment" in log
    (work_dir / f"iter_{stop}.pth").rename(work_dir / "final.pth")
    return work_dir


def test_testing_repeats_the_validation_of_the_training(
    trained, run_tool, camvid_options, camvid_config
):
    last = scalars(trained)[-1]
    assert {"aAcc", "mIoU", "mAcc"} <= set(last)
    out, shown = trained / "out", trained / "shown"
    printed = run_tool(
        "test.py", camvid_config, trained / "final.pth", "--work-dir", trained / "tested",
        "--out", out, "--show-dir", shown, "--quiet", *camvid_options,
    )  # fmt: skip
    rule, head, *_, result, written = printed.splitlines()
    assert rule.startswith("+---")
    assert "Class" in head
    assert "Pedestrian" in printed
    assert result.startswith("Iter(test) [4/4]  aAcc: ")
    place = f"written to {trained / 'tested'}: log and metrics in 20"
    assert written.startswith(place)
    assert written.endswith(f"--out {out}, --show-dir {shown}")
    for name, value in scores(trained / "tested").items():
        assert value == pytest.approx(last[name], abs=0.02)
    assert len(list(out.glob("*.png"))) == 4
    assert len(list(shown.rglob("vis_image/*.png"))) == 4


def test_merging_is_chosen_by_the_config_alone(trained, run_tool, camvid_options, camvid_config):
    """The same checkpoint, unmerged and merged, with and without test-time augmentation."""
    found = []
    for preset in ("none", "fast"):
        work_dir = trained / preset
        config = str(camvid_config).replace("_hq_", f"_{preset}_")
        run_tool("test.py", config, trained / "final.pth", "--work-dir", work_dir, *camvid_options)
        found.append(scores(work_dir))
    assert found[0] != found[1]


@pytest.mark.slow
def test_switches_are_named_entries_of_the_config_in_the_stock_tool_too(
    trained, run_tool, camvid_options, camvid_config
):
    """Half precision and pictures of what merges: by our switches, and by the config's entries."""
    import mmseg

    stock = Path(mmseg.__file__).parent / ".mim" / "tools" / "test.py"
    entries = ["fast_inference.dtype=bfloat16", "merging_visualization.enabled=True"]
    entries = [f"default_hooks.{entry}" for entry in entries]
    switches = ["--dtype", "bfloat16", "--show-merging", "--interval", "3"]
    found = []
    for tool, before, after in (("test.py", switches, []), (stock, [], entries)):
        work_dir = trained / f"half_{len(before)}"
        run_tool(
            tool, camvid_config, trained / "final.pth", "--work-dir", work_dir, *before,
            *camvid_options, *after, cwd=trained,
        )  # fmt: skip
        pictures = {p.stem for p in work_dir.rglob("vis_image/merging_val_*.png")}
        pictures |= {p.stem for p in work_dir.rglob("vis_image/merging_test_*.png")}
        found.append((scores(work_dir), {p for p in pictures if p.endswith("image_0")}))
        assert len(pictures) == (10 if before else 5)  # of the first batch, and of the fourth
    assert found[0] == found[1]
    assert found[0][0] == pytest.approx(scores(trained / "tested"), abs=1)


def test_a_config_that_only_names_our_backbone_scores_the_same(
    trained, run_tool, camvid_options, camvid_config, tmp_path
):
    stock = dict(val_evaluator="IoUMetric", test_evaluator="IoUMetric", model="EncoderDecoder")
    lines = [f"{key} = dict(type={kind!r})" for key, kind in stock.items()]
    hooks = "default_hooks = dict(_delete_=True, logger=dict(type='LoggerHook'))"
    mine = tmp_path / "mine.py"
    mine.write_text("\n".join([f"_base_ = {str(camvid_config)!r}", *lines, hooks]))
    options = [option for option in camvid_options if "default_hooks" not in option]
    run_tool("test.py", mine, trained / "final.pth", "--work-dir", tmp_path / "mine", *options)
    assert scores(tmp_path / "mine") == scores(trained / "tested")
    dumped = max((tmp_path / "mine").glob("2*/vis_data/config.py")).read_text()
    assert "mmseg_tome.FastInferenceHook" in dumped
    assert "mmseg_tome.CheckpointGuardHook" in dumped


@pytest.mark.slow
def test_two_processes_score_what_one_does(trained, run_tool, camvid_options, camvid_config):
    run_tool(
        "dist_test.sh", camvid_config, trained / "final.pth", 2,
        "--work-dir", trained / "two", *camvid_options,
    )  # fmt: skip
    run_tool(
        "test.py",
        camvid_config,
        trained / "final.pth",
        "--work-dir",
        trained / "one",
        *camvid_options,
    )
    assert scores(trained / "two") == scores(trained / "one")


def test_two_processes_train(run_tool, camvid_options, tmp_path, camvid_config):
    out = run_tool(
        "dist_train.sh", camvid_config, 2, "--verbose", "--work-dir", tmp_path, *camvid_options,
        "train_cfg.max_iters=2", "train_cfg.val_interval=2",
    )  # fmt: skip
    assert "Distributed launcher: pytorch" in out
    assert "GPU number: 2" in out
    last = scalars(tmp_path)[-1]
    assert "mIoU" in last
    assert (tmp_path / "iter_2.pth").is_file()


@pytest.mark.parametrize("switch", [["--amp"], ["--dtype", "bfloat16"]])
def test_mixed_precision_training(run_tool, camvid_options, tmp_path, camvid_config, switch):
    run_tool(
        "train.py", camvid_config, *switch, "--no-validate", "--work-dir", tmp_path,
        *camvid_options, "train_cfg.max_iters=2",
    )  # fmt: skip
    losses = [entry["loss"] for entry in scalars(tmp_path)]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)


@pytest.fixture(scope="module")
def b5_checkpoint(repo, untrained_weights, tmp_path_factory) -> Path:
    """Weights of the Cityscapes model of `configs/segformerpp_fast_cityscapes.py`, untrained."""
    weights = untrained_weights(repo / "configs" / "segformerpp_fast_cityscapes.py")
    path = tmp_path_factory.mktemp("b5") / "b5.pth"
    torch.save(dict(state_dict=weights), path)
    return path


def test_the_cityscapes_config_with_our_tool_and_with_the_stock_one(
    shared, repo, run_tool, b5_checkpoint, tmp_path
):
    import mmseg

    config = repo / "configs" / "segformerpp_fast_cityscapes.py"
    options = [
        "--cfg-options",
        f"test_dataloader.dataset.data_root={shared / 'data' / 'pseudo_cityscapes'}",
        "test_dataloader.num_workers=0",
        "test_dataloader.persistent_workers=False",
        "test_dataloader.dataset.pipeline.1.scale=(512,256)",  # the crop is 256x128
    ]
    load_from = f"load_from={b5_checkpoint}"
    # Without a checkpoint argument ours tests the config's load_from.
    run_tool("test.py", config, "--work-dir", tmp_path / "ours", *options, load_from)
    stock = Path(mmseg.__file__).parent / ".mim" / "tools" / "test.py"
    run_tool(stock, config, b5_checkpoint, "--work-dir", tmp_path / "stock", *options, cwd=tmp_path)
    assert scores(tmp_path / "ours") == scores(tmp_path / "stock")
