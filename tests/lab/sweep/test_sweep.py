"""The sweep as a user runs it, on a tiny model and tiny images, and its network beside mmseg's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")


from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from mmseg_tome.cli import sweep
from mmseg_tome.files import only_one
from mmseg_tome.lab.sweep.images import Images
from mmseg_tome.lab.sweep.network import (
    Network,
    build_network,
    time_settings,
    tokens_kept,
    with_setting,
)
from mmseg_tome.lab.sweep.scores import Evaluator
from mmseg_tome.lab.sweep.settings import NONE, Setting
from mmseg_tome.merging import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (96, 128)
HQ = Setting("hq", PRESETS["hq"])
FAST_TURBO = Setting("fast-turbo", PRESETS["fast-turbo"])
HALF = Setting("downsample", down_sample=True)


@pytest.fixture(scope="module")
def place(write_segmentor, tmp_path_factory) -> Path:
    """A folder with a config, two checkpoints of it and three images of blocks with noise."""
    return write_segmentor(tmp_path_factory.mktemp("sweep"), "none", "abc", seeds=2)


def config_of(place: Path) -> Config:
    return Config.fromfile(place / "tiny.py")


@pytest.fixture(scope="module")
def images(place) -> Images:
    return Images(config_of(place))


@pytest.fixture
def network(place) -> Network:
    return Network(config_of(place), str(place / "0.pth"), "cpu")


def by_mmseg(place, images, **backbone):
    """Predictions of mmseg's own test step by a model that is built with these options."""
    cfg = config_of(place)
    cfg.model.backbone.update(backbone)
    model = build_network(cfg, str(place / "0.pth"))
    with torch.no_grad():
        found = [model.test_step(pseudo_collate([sample]))[0] for sample in images.samples]
    return [sample.pred_sem_seg.data[0].numpy() for sample in found]


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        (NONE, {}),
        (HQ, {"tome_cfg": "hq"}),
        (FAST_TURBO, {"tome_cfg": "fast-turbo"}),
        (HALF, {"down_sample": True}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_setting_predicts_what_a_model_built_with_it_does(
    place, images, network, setting, options
):
    for other in (HALF, FAST_TURBO):  # nothing of an earlier setting is left
        list(network.predict(images.batches(3), other))
    found = list(network.predict(images.batches(2), setting))
    expected = by_mmseg(place, images, **options)
    same = np.mean([a == b for a, b in zip(found, expected, strict=True)])
    assert same > 0.999  # batches round otherwise
    assert len(np.unique(expected)) > 1
    if setting is not NONE:
        plain = by_mmseg(place, images)
        assert not np.array_equal(plain, expected), "the setting changes something"


def test_scale_resizes_the_input_and_leaves_the_labels(place, images, network):
    twice = Images(config_of(place), scale=2)
    assert (images.hw, twice.hw) == (SIZE, (192, 256))
    assert [label.shape for label in twice.labels] == [SIZE] * 3
    assert all(map(np.array_equal, twice.labels, images.labels))
    assert next(network.predict(twice.batches(1), HQ)).shape == SIZE


def test_an_evaluator_compares_with_the_unmerged_network(images, network):
    evaluator = Evaluator(network, images, batch=3)
    none, hq = evaluator.evaluate(NONE), evaluator.evaluate(HQ)
    assert none["agreement"] == 100
    pairs = zip(network.predict(images.batches(1), HQ), evaluator.unmerged, strict=True)
    same = 100 * np.mean([a == b for a, b in pairs])
    assert hq["agreement"] == pytest.approx(same, abs=0.1)
    assert hq["agreement"] < 100
    assert hq["mIoU"] != none["mIoU"]


def test_tokens_are_counted_against_the_whole_image(network):
    kept = tokens_kept(network.model.backbone, SIZE, HALF)
    assert kept["queries"] == pytest.approx(25, abs=1)
    assert kept["pairs"] < kept["queries"]
    assert set(tokens_kept(network.model.backbone, SIZE, NONE).values()) == {100}


def test_timed_networks_share_weights_and_merge_on_their_own(place):
    model = build_network(config_of(place), str(place / "0.pth"))
    x = torch.randn(1, 3, *SIZE)
    copies = [with_setting(model, setting) for setting in (NONE, HQ)]
    names = [name for name, _ in model.named_parameters()]
    for other in copies:
        assert all(other.get_parameter(n) is model.get_parameter(n) for n in names)
    plain, merged = (copy.decode_head(copy.backbone(x)) for copy in copies)
    assert plain.shape == merged.shape
    assert not torch.equal(plain, merged)


def test_times_are_per_image(place):
    model = build_network(config_of(place), str(place / "0.pth"))
    cpu, calls = torch.device("cpu"), []
    found = time_settings(model, [NONE, HQ], SIZE, 2, cpu, "bfloat16", 2, lambda: calls.append(1))
    assert len(calls) == 2 * (1 + 2)
    assert all(0 < times["ms"]["min"] <= times["ms"]["max"] for times in found)
    assert {times["launch"] for times in found} == {"eager"}


@pytest.mark.parametrize("launch", ["auto", "graphs", "eager"])
def test_times_are_of_graphs_unless_told_otherwise(place, monkeypatch, launch):
    graphed = []
    monkeypatch.setattr(
        "mmseg_tome.lab.sweep.network.install", lambda part, *_, **__: graphed.append(part)
    )
    model = build_network(config_of(place), str(place / "0.pth"))
    time_settings(model, [HQ], SIZE, 1, torch.device("cpu"), rounds=1, launch=launch)
    assert len(graphed) == (0 if launch == "eager" else 2)


def test_graphs_on_a_cpu_are_told_of(place, tmp_path, capsys):
    call = [*arguments(place, tmp_path), "--dry-run", "--launch"]
    assert sweep.main([*call, "graphs"]) == 0
    assert "warning: --launch graphs has no effect: there is no GPU" in capsys.readouterr().err
    assert sweep.main([*call, "eager"]) == 0
    assert "warning" not in capsys.readouterr().err


def arguments(place, out, *more):
    seeds = [str(place / f"{seed}.pth") for seed in range(2)]
    model = ["--model", "tiny", str(place / "tiny.py"), *seeds]
    return [*model, "--vary", "stage", "--out", str(out), "--batch", "3", *more]


def test_parts_make_one_sweep_that_goes_on_where_it_was(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert sweep.main(arguments(place, out, "--part", "1/2")) == 0
    first = {file: file.stat().st_mtime_ns for file in (out / "rows").iterdir()}
    assert len(first) == 9  # of 2 checkpoints x (none and 2 x 4 stages)
    assert not (out / "sweep.json").exists()
    assert "rows 9/9, 0 s left" in capsys.readouterr().out

    timing = ("--time", "--rounds", "1", "--time-batch", "2")
    assert sweep.main(arguments(place, out, *timing)) == 0
    assert "9 rows to do" in capsys.readouterr().out
    assert all(file.stat().st_mtime_ns == before for file, before in first.items())
    found = json.loads((out / "sweep.json").read_text())
    assert found["problems"] == []
    assert len(found["results"]) == 9
    for entry in found["results"]:
        assert entry["checkpoints"] == ["0.pth", "1.pth"]
        assert entry["times"]["2"]["ratio"] > 0
    assert {path.name for path in out.iterdir()} == {
        "rows", "sweep.json", "sweep.md", "sweep.png", "tradeoff.png"
    }  # fmt: skip

    before = {file: file.stat().st_mtime_ns for file in (out / "rows").iterdir()}
    assert sweep.main(arguments(place, out, *timing)) == 0
    assert all(file.stat().st_mtime_ns == then for file, then in before.items())

    torch.save(torch.load(place / "1.pth"), tmp_path / "0.pth")  # another seed by this name
    changed = arguments(place, out)
    changed[3] = str(tmp_path / "0.pth")
    sweep.main([*changed, "--dry-run"])
    assert "9 of 18 rows to do" in capsys.readouterr().out


def test_parts_share_a_folder_that_else_one_process_holds(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmseg_tome.lab.sweep.sweep.MOMENT", 0)
    out = tmp_path / "out"

    def refusal(*more) -> str:
        call = [*arguments(place, out), "--max-images", "1", "--vary", "downsample", *more]
        assert sweep.main(call) in (0, 2)
        return capsys.readouterr().err

    with only_one(out, file="part-1-of-2"):
        assert f"another process writes {out / 'part-1-of-2'}" in refusal()
        assert f"another process writes {out / 'part-1-of-2'}" in refusal("--part", "1/2")
        assert "another process" not in refusal("--part", "2/2")
        assert len(list((out / "rows").iterdir())) == 2
    with only_one(out):
        assert f"another process writes into {out}" in refusal("--part", "2/2")
    assert [path.name for path in out.iterdir()] == ["rows"]


def test_a_damaged_row_is_done_again(place, tmp_path, capsys):
    out = tmp_path / "out"
    few = ["--max-images", "1", "--vary", "downsample"]
    sweep.main([*arguments(place, out), *few])
    row = out / "rows" / "tiny-0-x1-none.json"
    row.write_text(row.read_text()[:40])
    capsys.readouterr()
    sweep.main([*arguments(place, out), *few])
    assert "1 rows to do" in capsys.readouterr().out
    assert json.loads(row.read_text())["images"] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--part", "3/2"], "--part must be I/N with I from 1 to N, such as 1/4, got '3/2'"),
        (["--part", "1/2", "--time"], "--time does not go with --part"),
        (["--no-accuracy"], "--no-accuracy without --time leaves nothing to do"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--scale", "0"], "--scale must be above 0"),
        (["--bands", "9", "3"], "--bands needs two areas in pixels, the smaller one first"),
        (["--thin", "Tram"], "the data set has no class 'Tram'; its classes: Sky, Building"),
        (["--device", "gpu"], "unknown device 'gpu'; use cpu, cuda or cuda:N"),
        (["--model", "b1", "x.py"], "--model b1 x.py: needs NAME CONFIG CHECKPOINT ..."),
        (["--model", "b1", "x.py", "no.pth"], "checkpoint no.pth does not exist"),
        (["--data-root", "nowhere"], "To get CamVid: download"),
        (["--out", "/dev/null/x"], "/dev/null/x"),
        (["--cfg-options", "model.backbone.tome_cfg=hd"], "unknown preset 'hd' in tome_cfg"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(place, tmp_path, capsys, more, message):
    assert sweep.main([*arguments(place, tmp_path / "out"), *more]) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("sweep.py: error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_model_is_refused(place, tmp_path, capsys):
    torch.save(dict(state_dict={"backbone.x": torch.zeros(1)}), tmp_path / "other.pth")
    call = ["--model", "b", str(place / "tiny.py"), str(tmp_path / "other.pth")]
    assert sweep.main([*call, "--out", str(tmp_path / "out")]) == 2
    assert "does not fit the model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_that_the_network_cannot_take_are_named(place, tmp_path, capsys):
    assert sweep.main([*arguments(place, tmp_path / "out"), "--scale", "0.25"]) == 2
    assert "an image of 24x32 pixels is too small" in capsys.readouterr().err


def test_a_report_needs_rows(tmp_path, capsys):
    assert sweep.main(["--report", "--out", str(tmp_path)]) == 2
    assert "there are no rows in" in capsys.readouterr().err
