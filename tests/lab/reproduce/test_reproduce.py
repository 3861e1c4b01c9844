"""The paper's tables, the plan to measure them, and what is checked before anything runs."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")

TOOLS = Path(__file__).resolve().parents[3] / "tools"

from mmseg_tome import compat  # noqa: E402
from mmseg_tome.cli import benchmark, reproduce  # noqa: E402
from mmseg_tome.lab.reproduce import plan, requirements, running  # noqa: E402
from mmseg_tome.lab.reproduce.tables import TABLES  # noqa: E402

IN_PAPER_FACTS = {
    "Cityscapes, inference": "cityscapes-inference",
    "Cityscapes, trained": "cityscapes-training",
    "ADE20K 640": "ade20k",
    "Jump-Broadcast PCK": "jbd",
    "COCO PCK": "coco",
}


@pytest.fixture
def started(monkeypatch) -> list:
    """Commands that were started; nothing is."""
    commands = []
    monkeypatch.setattr(running, "execute", lambda command, *rest: commands.append(command))
    return commands


def planned(table, tmp_path, **options):
    """The steps of a table by row and name."""
    settings = plan.Settings(tmp_path / "work", **options)
    return {
        row.name: {step.name: step for step in row.steps}
        for row in plan.make(TABLES[table], settings)
    }


# --- the tables ---


def test_numbers_are_the_published_ones(shared):
    """Against the authors' table, one line of cells ``accuracy / ... (speed; GB)`` each."""
    facts = (shared / "paper_facts.md").read_text()
    lines = facts[facts.index("# Published results") :].splitlines()
    checked = set()
    for start, name in IN_PAPER_FACTS.items():
        (line,) = [line for line in lines if line.startswith(f"| {start}")]
        cells = [
            [float(n) for n in re.findall(r"\d+\.\d+", cell)] for cell in line.split("|")[2:-1]
        ]
        rows = TABLES[name].rows.values()
        published = [
            [*row.accuracy, *(n for n in (row.speed, row.memory) if n is not None)] for row in rows
        ]
        assert published == [cell for cell in cells if cell]
        checked.add(name)
    assert checked == set(TABLES)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_row_is_whole(repo, table):
    for name, published in table.rows.items():
        assert (repo / "configs" / table.config.format(row=name)).is_file()
        assert len(published.accuracy) == len(table.metrics)
        assert (published.speed is None) == (name == "none")
        assert (published.memory is not None) == table.trains


# --- the plan ---


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("table", TABLES)
def test_the_standard_tools_read_the_commands(monkeypatch, tmp_path, table, gpus):
    if table in ("coco", "jbd") and not compat.has("mmpose"):
        pytest.skip("needs mmpose")
    steps = planned(
        table, tmp_path, gpus=gpus, data_root=tmp_path, cfg_options=("randomness.seed=1",)
    )["hq"]
    for step in steps.values():
        tool, *arguments = step.command[0 if gpus > 1 and step.name != "speed" else 1 :]
        if step.name == "speed":
            args = benchmark.parse_args(arguments)
            assert args.train == TABLES[table].trains
            continue
        if gpus > 1:  # CONFIG [CHECKPOINT] GPUS [OPTIONS], as the scripts hand them on
            assert arguments.pop(1 if step.name == "train" else 2) == "2"
        script = TOOLS / f"{step.name}.py"
        assert Path(tool).name == (f"dist_{step.name}.sh" if gpus > 1 else script.name)
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        args = import_module(f"mmseg_tome.cli.{script.stem}").parse_args()
        assert args.config.endswith(f"segformerpp_hq_{table.partition('-')[0]}.py")
        assert args.cfg_options["test_dataloader.dataset.data_root"] == str(tmp_path) or (
            step.name == "train"
        )
        assert args.cfg_options["randomness.seed"] == 1
        if step.name == "train":
            assert args.resume == "auto"


def test_trained_rows_start_from_imagenet_and_test_their_last_checkpoint(tmp_path):
    steps = planned("cityscapes-training", tmp_path)["fast"]
    assert "load_from=None" in steps["train"].command
    assert str(steps["train"].folder / "iter_160000.pth") in steps["test"].command
    epochs = planned("coco", tmp_path, cfg_options=("train_cfg.max_epochs=3",))["fast"]
    assert str(epochs["train"].folder / "epoch_3.pth") in epochs["test"].command


def test_processes_share_the_batch(tmp_path):
    def batches(**options):
        steps = planned("ade20k", tmp_path, **options)["hq"]
        each = [a for a in steps["train"].command if a.startswith("train_dataloader.batch_size=")]
        speed = steps["speed"].command
        return each, speed[speed.index("--batch") + 1]

    assert batches() == ([], "8")
    assert batches(gpus=4) == (["train_dataloader.batch_size=2"], "8")
    own = "train_dataloader.batch_size=3"  # the user's own is that of each process
    assert batches(gpus=4, cfg_options=(own,)) == ([own], "12")


def test_one_checkpoint_is_tested_in_all_rows(tmp_path, checkpoint):
    steps = planned("cityscapes-inference", tmp_path, checkpoint=str(checkpoint))
    assert all(str(checkpoint) in row["test"].command for row in steps.values())
    steps = planned("cityscapes-inference", tmp_path)
    (address,) = {row["test"].command[3] for row in steps.values()}
    assert address.startswith("https://")


def test_fingerprints_tell_what_would_change_a_number(tmp_path, checkpoint):
    def fingerprints(**options):
        steps = planned("cityscapes-inference", tmp_path, **options)["hq"]
        return steps["test"].fingerprint, steps["speed"].fingerprint

    first = fingerprints(checkpoint=str(checkpoint))
    assert fingerprints(checkpoint=str(checkpoint)) == first
    torch.save(dict(state_dict=dict(weight=torch.ones(1))), checkpoint)
    other = fingerprints(checkpoint=str(checkpoint))
    assert other[0] != first[0]
    assert other[1] == first[1]  # speed is measured with random weights
    changed = fingerprints(checkpoint=str(checkpoint), cfg_options=("randomness.seed=1",))
    assert changed[0] != other[0]
    moved = fingerprints(checkpoint=str(checkpoint), data_root=tmp_path)
    assert moved[0] != other[0]
    assert moved[1] == other[1]


def test_a_trained_test_changes_with_its_training(tmp_path):
    def fingerprint(**options):
        return planned("jbd", tmp_path, **options)["hq"]["test"].fingerprint

    assert fingerprint() != fingerprint(cfg_options=("optim_wrapper.optimizer.lr=1e-3",))


# --- before anything runs ---


def test_a_dry_run_tells_what_is_missing_and_where_to_get_it(work_dir, started, capsys):
    arguments = ["cityscapes-training", "--data-root", str(work_dir / "none"), "--rows", "hq"]
    assert reproduce.main([*arguments, "--work-dir", str(work_dir), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"MISSING  {work_dir / 'none' / 'leftImg8bit' / 'train'}: no such folder" in out
    assert "get leftImg8bit_trainvaltest.zip" in out
    assert "4 missing" in out
    assert out.index("train.py") < out.index("test.py") < out.index("benchmark.py")
    assert "fast" not in out
    assert not started
    assert not work_dir.exists()


def test_without_data_nothing_runs(work_dir, started, capsys):
    arguments = ["cityscapes-training", "--data-root", str(work_dir / "none")]
    assert reproduce.main([*arguments, "--work-dir", str(work_dir)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for place in ("leftImg8bit/train", "leftImg8bit/val", "gtFine/train", "gtFine/val"):
        assert line.count(f"{place} (no such folder)") == 1
    assert not started
    assert not work_dir.exists()


def test_labels_that_were_not_converted_are_missing(data, checkpoint, started, work_dir, capsys):
    for path in (data / "gtFine").rglob("*TrainIds.png"):
        path.rename(path.with_name(path.name.replace("labelTrainIds", "labelIds")))
    arguments = ["cityscapes-inference", "--data-root", str(data), "--work-dir", str(work_dir)]
    arguments += ["--checkpoint", str(checkpoint)]
    assert reproduce.main(arguments) == 2
    assert "gtFine/val (no *_gtFine_labelTrainIds.png in it)" in capsys.readouterr().err
    assert reproduce.main([*arguments, "--dry-run"]) == 0
    assert "csCreateTrainIdLabelImgs" in capsys.readouterr().out


def test_a_damaged_checkpoint_stops_all(data, checkpoint, started, work_dir, capsys):
    checkpoint.write_bytes(b"no checkpoint")
    arguments = ["cityscapes-inference", "--data-root", str(data), "--work-dir", str(work_dir)]
    assert reproduce.main([*arguments, "--checkpoint", str(checkpoint)]) == 2
    assert "not a checkpoint" in capsys.readouterr().err
    assert not started


def test_a_zoo_that_cannot_be_reached(data, started, work_dir, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    arguments = ["cityscapes-inference", "--data-root", str(data), "--work-dir", str(work_dir)]
    arguments += ["--checkpoint", "http://127.0.0.1:9/b5-01234567.pth"]
    assert reproduce.main([*arguments, "--dry-run"]) == 0
    assert f"download {tmp_path / 'torch'}" in capsys.readouterr().out
    assert reproduce.main(arguments) == 2
    assert "cannot download http://127.0.0.1:9/b5-01234567.pth" in capsys.readouterr().err
    assert not started


def test_the_peer_needs_tomesd(monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert requirements.tomesd().status == requirements.MISSING
    assert "--no-peer" in requirements.tomesd().get


def test_fewer_images_are_noted(data):
    cfg = plan.Config(
        dict(
            test_dataloader=dict(
                dataset=dict(data_root=str(data), data_prefix=dict(img_path="leftImg8bit/val"))
            )
        )
    )
    source = TABLES["cityscapes-inference"].data
    (needed,) = requirements.data_of(cfg, ("test",), source)
    assert needed.status == requirements.THERE
    assert needed.note == "1 files *_leftImg8bit.png in place of 500"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jbd", "--rows", "downsample"], "no row 'downsample' in this table; allowed: none, hq"),
        (["ade20k", "--cfg-options", "oops"], "--cfg-options oops: not of the form key=value"),
        (["ade20k", "--cfg-options", "train_dataloader.dataset.pipeline.99.x=1"], "has 7 entries"),
        (["ade20k", "--gpus", "3", "--device", "cpu"], "batch of 8: allowed are 1, 2, 4, 8"),
        (["ade20k", "--gpus", "0"], "--gpus must be at least 1, not 0"),
        (["ade20k", "--device", "tpu"], "--device tpu: use cpu, cuda or cuda:N"),
        (["ade20k", "--device", "cuda:99"], "--device cuda:99 was requested, but torch sees"),
        (["ade20k", "--work-dir", __file__], "is a file, not a folder"),
        (["cityscapes-inference", "--cfg-options", "load_from=None"], "give --checkpoint"),
        (["ade20k", "--benchmark-options", "--batch 1 2"], "one --batch, not 2: a row has one"),
    ],
)
def test_mistakes(arguments, message, started, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("reproduce.py: error: ")
    assert message in line
    assert not started
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet"], "cityscapes-inference"),
        (["ade20k", "--benchmark-options", "--dtipe x"], "unrecognized arguments: --dtipe x"),
    ],
)
def test_mistakes_that_the_parser_finds(arguments, message, started, capsys):
    with pytest.raises(SystemExit) as stop:
        reproduce.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not started
