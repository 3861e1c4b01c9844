"""The search as a user runs it, on a tiny model and tiny images."""

import json
import shutil
import sys
from pathlib import Path

import cv2
import pytest

pytest.importorskip("mmseg")
pytest.importorskip("optuna")


from mmengine.config import Config

from mmseg_tome.cli import tune
from mmseg_tome.lab.tune.choose import Goal
from mmseg_tome.lab.tune.images import AgreementLoss
from mmseg_tome.lab.tune.probes import StageTimes
from mmseg_tome.merging import PRESETS, parse_tome_cfg

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(write_segmentor, tmp_path_factory) -> Path:
    """A folder with a config, a checkpoint of it and six images of blocks with noise."""
    return write_segmentor(tmp_path_factory.mktemp("tune"), "hq", "abcdef")


@pytest.fixture
def reached(monkeypatch):
    """Times by what merges: no machine's mood decides who wins."""

    def measure_unmerged(times):
        times.known.update({f"ms {i}": 20.0 for i in (1, 2, 3, 4)} | {"ms whole": 100.0})

    def ratio(times, stage, choice):
        return 1 - 0.4 * (choice.q != "none") - 0.1 * (choice.kv != "none")

    def measure(model, hw, options):
        def speedups(plans):
            return [1 + sum(choice.q != "none" for choice in plan) / 2 for plan in plans]

        return speedups

    monkeypatch.setattr(StageTimes, "_measure_unmerged", measure_unmerged)
    monkeypatch.setattr(StageTimes, "measure", lambda times, stage, choices: None)
    monkeypatch.setattr(StageTimes, "ratio", ratio)
    monkeypatch.setattr("mmseg_tome.lab.tune.tuning._measure", measure)
    few = {"q": ("n2d-2x2", "bsm-4x4-0.8", "bsm-4x4-0.9"), "kv": ("bsm-2x2-0.6", "bsm-4x4-0.9")}
    monkeypatch.setattr("mmseg_tome.lab.tune.space.CANDIDATES", few)
    presets = {name: PRESETS[name] for name in ("hq", "fast", "n2d", "fast-prop")}
    monkeypatch.setattr("mmseg_tome.lab.tune.space.PRESETS", presets)
    monkeypatch.setattr("mmseg_tome.lab.tune.choose.MARGIN", 0)


def arguments(place, out, *more):
    return [
        *("--config", str(place / "tiny.py"), "--checkpoint", str(place / "0.pth")),
        *("--out", str(out), "--scale", "1", "--trials", "8", "--rounds", "1", *more),
    ]


def unlabelled(place, out, *more):
    return arguments(place, out, "--images", str(place / "data/images/val"), *more)


def test_a_search_writes_a_config_its_front_and_a_sentence_and_goes_on(
    place, tmp_path, capsys, reached
):
    out = tmp_path / "out"
    assert tune.main(unlabelled(place, out, "--target", "1.5x")) == 0
    said = capsys.readouterr().out
    assert "Chosen: stage 1: " in said
    assert {path.name for path in out.iterdir()} == {
        "journal.log", "pareto.json", "pareto.png", "tuned.py"
    }  # fmt: skip
    found = json.loads((out / "pareto.json").read_text())
    chosen, trials = found["chosen"], found["trials"]
    assert len(trials) >= 6  # none, presets and what probes promise
    assert {entry["name"] for entry in found["presets"]} >= {"hq", "fast", "n2d"}
    assert found["images"] | {"source": ""} == dict(source="", searched=4, held_out=2)
    assert chosen["measured_speedup"] >= 1.5
    met = [p["loss"] for p in found["presets"] if p["measured_speedup"] >= 1.5]
    assert all(chosen["loss"] <= loss for loss in met)
    assert {probe["stage"] for probe in found["probes"]} == {1, 2, 3, 4}
    assert cv2.imread(str(out / "pareto.png")) is not None

    backbone = Config.fromfile(out / "tuned.py").model.backbone
    assert backbone.embed_dims == 8, "inherits the user's config"
    assert parse_tome_cfg(backbone.tome_cfg) == parse_tome_cfg(chosen["tome_cfg"])

    # Another goal chooses from what is known, and tries a few plans more.
    assert tune.main(unlabelled(place, out, "--target", "2.5x")) == 0
    again = json.loads((out / "pareto.json").read_text())
    assert len(again["trials"]) >= len(trials)
    assert [t["loss"] for t in again["trials"]][: len(trials)] == [t["loss"] for t in trials]
    assert again["chosen"]["measured_speedup"] >= 2.5


def test_labels_make_it_points_of_miou(place, tmp_path, reached):
    labels = ("--labels", str(place / "data/labels/val"))
    assert tune.main(unlabelled(place, tmp_path / "a", *labels, "--max-loss", "100")) == 0
    assert tune.main(arguments(place, tmp_path / "b", "--data", "test", "--max-loss", "100")) == 0
    folder, data = (
        json.loads((tmp_path / name / "pareto.json").read_text()) for name in ("a", "b")
    )
    assert folder["loss"] == "points of mIoU"
    by_name = [{p["name"]: p["mIoU"] for p in found["presets"]} for found in (folder, data)]
    assert by_name[0] == by_name[1]
    for entry in folder["trials"]:
        none = next(t for t in folder["trials"] if t["predicted_speedup"] == 1)
        assert entry["loss"] == pytest.approx(none["mIoU"] - entry["mIoU"], abs=2e-4)


def test_an_unreachable_target_says_the_fastest_and_writes_no_config(
    place, tmp_path, capsys, reached
):
    assert tune.main(unlabelled(place, tmp_path, "--target", "90x")) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "90x is out of reach here: the fastest measured is " in line
    assert not (tmp_path / "tuned.py").exists()
    assert (tmp_path / "pareto.png").exists()


def test_a_tuned_config_is_checked_beside_the_presets(place, tmp_path, capsys):
    tuned = tmp_path / "tuned.py"
    tuned.write_text(
        f"_base_ = {str(place / 'tiny.py')!r}\n"
        "model = dict(backbone=dict(tome_cfg=[dict(q=dict(mode='n2d')), {}, {}, {}]))\n"
    )
    call = arguments(place, tmp_path / "out", "--check", str(tuned), "--max-images", "2")
    assert tune.main(call) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    names = [row[1] for row in rows[1:]]
    assert names == ["none", "hq", "fast", "hq-prop", "fast-prop", "tuned"]
    assert float(rows[1][3]) == 100
    assert 0 < float(rows[-1][3]) < 100


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--images", "nowhere", "--target", "2x"], "nowhere is no folder"),
        (["--target", "2x"], "give --images FOLDER, or --data train"),
        (["--data", "test", "--labels", ".", "--target", "2x"], "--labels goes with --images"),
        (["--data", "test", "--max-loss", "-1"], "--max-loss must be at least 0"),
        (["--data", "test", "--max-loss", "nan"], "--max-loss must be at least 0"),
        (["--data", "test", "--target", "2x", "--scale", "1", "2"], "go with --check alone"),
        (["--data", "test", "--target", "2x", "--trials", "0"], "--trials must be at least 1"),
        (["--data", "test", "--target", "2x", "--device", "gpu"], "use cpu, cuda or cuda:N"),
        (["--data", "test", "--target", "2x", "--data-root", "nowhere"], "To get CamVid"),
        (["--check", "nowhere.py"], "config nowhere.py does not exist"),
        (["--check", "tune.py", "--images", "."], "leave out --images"),
        (["--data", "test", "--target", "2x", "--checkpoint", "no.pth"], "no.pth does not exist"),
        (["--data", "test", "--target", "2x", "--max-images", "1"], "one image is too few"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(place, tmp_path, capsys, more, message):
    assert tune.main([*arguments(place, tmp_path / "out"), *more]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("tune.py: error: ")
    assert message in line


@pytest.mark.parametrize("text", ["0.9x", "fast", "1", "inf", "nan"])
def test_a_target_is_a_speedup(place, tmp_path, capsys, text):
    with pytest.raises(SystemExit) as stop:
        tune.main(unlabelled(place, tmp_path, "--target", text))
    assert stop.value.code == 2
    assert "must be a speed-up above 1, such as 1.5x" in capsys.readouterr().err


def test_images_and_checkpoints_that_cannot_be_used_are_named(place, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    call = arguments(place, tmp_path / "out", "--images", str(folder), "--target", "1.5x")
    assert tune.main(call) == 2
    assert "holds no image" in capsys.readouterr().err
    (folder / "a.png").write_bytes(b"no image")
    assert tune.main(call) == 2
    assert f"cannot read {folder / 'a.png'}" in capsys.readouterr().err

    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    bad = unlabelled(place, tmp_path / "out", "--target", "2x")
    assert tune.main([*bad, "--checkpoint", str(tmp_path / "bad.pth")]) == 2
    assert "bad.pth is not a checkpoint" in capsys.readouterr().err
    classes = ["--cfg-options", "model.decode_head.num_classes=5"]
    assert tune.main([*bad, *classes]) == 2
    assert "does not fit the model" in capsys.readouterr().err
    labels = ["--labels", str(folder)]
    assert tune.main([*bad, *labels]) == 2
    assert f"labels in {folder} do not fit" in capsys.readouterr().err


def test_a_broken_image_is_named_and_left_out(place, tmp_path, capsys, reached):
    folder = tmp_path / "images"
    shutil.copytree(place / "data/images/val", folder)
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])
    (folder / "b.png").write_bytes(b"no image")
    call = arguments(place, tmp_path / "out", "--images", str(folder), "--target", "1.5x")
    assert tune.main(call) == 0
    said = capsys.readouterr()
    assert f"left out: cannot read {folder / 'a.png'}: it cannot be read" in said.err
    assert f"left out: cannot read {folder / 'b.png'}: " in said.err
    found = json.loads((tmp_path / "out/pareto.json").read_text())["images"]
    assert found["searched"] + found["held_out"] == 4


def test_joined_test_data(place, tmp_path, capsys, reached, join_test_data):
    config = join_test_data(place / "tiny.py", tmp_path / "joined.py")
    both = [*arguments(place, tmp_path / "out", "--data", "test", "--target", "1.5x")]
    assert tune.main([*both, "--config", str(config)]) == 0
    found = json.loads((tmp_path / "out/pareto.json").read_text())["images"]
    assert found["searched"] + found["held_out"] == 12
    few = ("--target", "1.5x", "--max-images", "2")
    images = unlabelled(place, tmp_path / "images", *few)
    assert tune.main([*images, "--config", str(config)]) == 0
    labels = ("--labels", str(place / "data/labels/val"))
    images = unlabelled(place, tmp_path / "labels", *few, *labels)
    assert tune.main([*images, "--config", str(config)]) == 0


def test_a_misspelt_preset_is_one_line(place, tmp_path, capsys):
    options = ("--cfg-options", "model.backbone.tome_cfg=hd")
    assert tune.main(unlabelled(place, tmp_path, "--target", "2x", *options)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("tune.py: error: unknown preset 'hd' in tome_cfg; allowed: fast, ")


def test_without_optuna_it_says_what_to_install(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune.main(unlabelled(place, tmp_path, "--target", "2x")) == 2
    assert "pip install optuna" in capsys.readouterr().err


def test_goals_are_exclusive(place, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tune.main(unlabelled(place, tmp_path, "--target", "2x", "--max-loss", "1"))
    assert Goal(2.0).loss is None


def test_an_interrupted_search_goes_on(place, tmp_path, capsys, reached, monkeypatch):
    loss, calls = AgreementLoss.__call__, []

    def interrupted(self, plan):
        calls.append(plan)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return loss(self, plan)

    monkeypatch.setattr(AgreementLoss, "__call__", interrupted)
    call = unlabelled(place, tmp_path, "--target", "1.5x", "--trials", "14")
    stop = 26  # among the trials, after the probes of four stages
    assert tune.main(call) == 130
    assert "call it again to go on" in capsys.readouterr().err
    assert not (tmp_path / "pareto.json").exists()
    before = calls[:-1]
    assert len(set(before[-5:])) == 5
    stop = 0
    calls.clear()
    assert tune.main(call) == 0
    found = json.loads((tmp_path / "pareto.json").read_text())
    assert {entry["name"] for entry in found["presets"]} >= {"hq", "fast", "n2d"}
    # Of the trials: a probe of one stage is a plan that may be tried as a whole afterwards.
    again = [plan for plan in calls if plan in before[-5:]]
    checked = [found["chosen"], *found["presets"]]  # on the images that are held out
    assert len(again) <= len(checked)
