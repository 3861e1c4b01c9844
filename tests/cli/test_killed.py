"""Tools that are killed at any moment, on full disks and in folders that others use.

`KILLS` sets how often each tool is killed; moments are spread at random over a whole run.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.files import only_one

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

KILLS = int(os.environ.get("KILLS", 1))

TRAINED = """
_base_ = {base!r}
data = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root={data!r}, data_prefix=dict(img_path="images/val", seg_map_path="labels/val")
    ),
)
train_dataloader = dict(**data, batch_size=2)
train_dataloader["dataset"]["pipeline"] = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
val_cfg = val_dataloader = val_evaluator = None
model = dict(data_preprocessor=dict(size=(96, 128)))
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=1, save_best=None, by_epoch=False),
    logger=dict(interval=1),
)
train_cfg = dict(max_iters=40)
"""


@pytest.fixture(scope="module")
def place(write_segmentor, tmp_path_factory) -> Path:
    place = write_segmentor(tmp_path_factory.mktemp("killed"), "n2d", "abcdef")
    text = TRAINED.format(base=str(place / "tiny.py"), data=str(place / "data"))
    (place / "trained.py").write_text(text)
    return place


@pytest.fixture
def start(repo, environment):
    """Start a tool in a process of its own."""

    def run(tool: str, *args) -> subprocess.Popen:
        command = [sys.executable, "-W", "ignore", str(repo / "tools" / tool), *map(str, args)]
        return subprocess.Popen(
            command, cwd=repo, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return run


@pytest.fixture
def kill(start):
    """Run a tool once, then kill it `KILLS` times; check what each leaves, and run it again."""

    def run(out: Path, check, tool: str, *args, again=(), earliest=0.3) -> None:
        began = time.monotonic()
        first = start(tool, *args)
        said = first.communicate()
        assert first.returncode == 0, said[1][-2000:]
        took = time.monotonic() - began
        moments = random.Random(tool)
        for i in range(KILLS):
            place = out.with_name(f"{out.stem}{i}{out.suffix}")
            process = start(tool, *(arg if arg != out else place for arg in args))
            time.sleep(took * moments.uniform(earliest, 1.0))  # before, it only imports
            process.send_signal(signal.SIGKILL)
            process.communicate()
            check(place, whole=False)
            last = start(tool, *(arg if arg != out else place for arg in args), *again)
            said = last.communicate()
            assert last.returncode == 0, said[1][-2000:]
            check(place, whole=True)

    return run


def visible(folder: Path) -> list[Path]:
    found = folder.rglob("*") if folder.is_dir() else [folder] if folder.exists() else []
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if ".part" in path.name]


def test_training_goes_on(place, kill, tmp_path):
    def check(folder: Path, whole: bool) -> None:
        for path in folder.glob("*.pth"):
            assert zipfile.is_zipfile(path)
            assert torch.load(path, weights_only=False)["meta"]["iter"]
        if (folder / "last_checkpoint").exists() and (folder / "last_checkpoint").read_text():
            assert list(folder.glob("*.pth"))  # one stands while the next is written
        if whole:
            assert [path.name for path in folder.glob("*.pth")] == ["iter_40.pth"]
            assert not leftovers(folder)

    out = tmp_path / "work"
    kill(out, check, "train.py", place / "trained.py", "--work-dir", out, again=("--resume",))


@pytest.mark.slow
def test_infer_starts_clean(place, kill, tmp_path):
    def check(folder: Path, whole: bool) -> None:
        for path in visible(folder):
            if path.suffix != ".json":
                assert cv2.imread(str(path)) is not None
        if (folder / "results.json").exists() or whole:
            images = json.loads((folder / "results.json").read_text())["images"]
            listed = {entry[key] for entry in images for key in ("overlay", "labels")}
            found = {str(path.relative_to(folder)) for path in visible(folder)}
            assert found == {*listed, "results.json"}
        if whole:
            assert len(images) == 6
            assert not leftovers(folder)

    out = tmp_path / "out"
    own = ("--config", place / "tiny.py", "--checkpoint", place / "0.pth")
    kill(out, check, "infer.py", place / "data/images/val", *own, "--out", out)


@pytest.mark.slow
def test_export_starts_clean(place, kill, tmp_path):
    def check(path: Path, whole: bool) -> None:
        if path.exists() or whole:
            torch.export.load(path)
        if whole:
            assert not leftovers(path.parent)

    out = tmp_path / "model.pt2"
    own = ("--config", place / "tiny.py", "--checkpoint", place / "0.pth", "--size", "96x128")
    kill(out, check, "export.py", *own, "--format", "torch-export", "--out", out)


@pytest.mark.slow
def test_a_sweep_goes_on(place, kill, tmp_path):
    def check(folder: Path, whole: bool) -> None:
        for path in visible(folder):
            assert path.read_bytes()
            if path.suffix == ".json":
                json.loads(path.read_text())
        if whole:
            assert {"sweep.json", "sweep.md"} <= {path.name for path in visible(folder)}
            assert not leftovers(folder)

    out = tmp_path / "sweep"
    model = ("--model", "tiny", place / "tiny.py", place / "0.pth")
    kill(out, check, "sweep.py", *model, "--vary", "downsample", "preset", "--out", out)


@pytest.mark.slow
def test_a_search_goes_on(place, kill, tmp_path):
    pytest.importorskip("optuna")

    def check(folder: Path, whole: bool) -> None:
        for path in visible(folder):
            if path.suffix == ".json":
                json.loads(path.read_text())
        if whole:
            assert {"pareto.json", "pareto.png"} <= {path.name for path in visible(folder)}
            assert not leftovers(folder)

    out = tmp_path / "tuned"
    own = ("--config", place / "tiny.py", "--checkpoint", place / "0.pth")
    few = ("--trials", "8", "--rounds", "2", "--max-images", "4", "--max-loss", "100")
    kill(out, check, "tune.py", *own, "--images", place / "data/images/val", *few, "--out", out)


REPRODUCE = """
import sys
from pathlib import Path
from mmseg_tome.cli import reproduce
from mmseg_tome.lab.reproduce import plan
plan.TOOLS = Path({place!r}, "tools")
sys.exit(reproduce.main())
"""

STAND_IN = """
import fcntl, json, sys, time
from pathlib import Path

def write(path, content):  # as slowly as a tool that dies midway
    text = json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        time.sleep(0.4)
        file.write(text[len(text) // 2 :])

options = dict(zip(sys.argv, sys.argv[1:]))
out = Path(options.get("--work-dir") or options["--out"])
alone = (out.parent / ".alone").open("w")
fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where an earlier one still runs
if out.name == "train":
    logged = out / "20260101" / "vis_data" / "scalars.json"
    write(logged, dict(memory=1024))
    write(out / "iter_160000.pth", "weights")
else:
    out.mkdir()  # fails where an earlier one left something
if out.name == "test":
    assert json.loads(Path(sys.argv[2]).read_text()) == "weights"
    write(out / "20260101" / "20260101.json", dict(mIoU=79.5))
if out.name == "speed":
    config = Path(options["--configs"])
    compile(config.read_text(), config, "exec")
    case = dict(size="8x8", batch=1, dtype="float32", device="cpu", part="step")
    found = dict(pipeline="ours", variant=config.stem, baseline=False, vs_none=1.5)
    found.update(case, latency_ms=dict(median=8.0), memory_mib=None, error=None)
    environment = dict(cpu="a CPU", gpu=None, threads=2, versions=dict(torch="9.9"))
    write(out / "benchmark.json", dict(results=[found], environment=environment))
"""


@pytest.fixture
def reproduce(repo, tmp_path) -> tuple:
    """The call of `reproduce.py` for two rows, with a stand-in for each tool that it runs."""
    place = tmp_path / "place"
    (place / "tools").mkdir(parents=True)
    (place / "configs").symlink_to(repo / "configs")
    for tool in ("train", "test", "benchmark"):
        (place / "tools" / f"{tool}.py").write_text(STAND_IN)
    for split in ("train", "val"):
        for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelTrainIds")):
            (place / "data" / kind / split).mkdir(parents=True)
            (place / "data" / kind / split / f"ulm_{ending}.png").touch()
    torch.save(dict(state_dict={}), place / "initial.pth")
    tool = place / "reproduce.py"
    tool.write_text(REPRODUCE.format(place=str(place)))
    own = ("--data-root", place / "data", "--checkpoint", place / "initial.pth")
    few = ("--rows", "none", "hq", "--no-peer", "--device", "cpu")
    # Last, as it takes all that follow: such settings let it write configs.
    return (str(tool), "cityscapes-training", *own, *few, "--cfg-options", "randomness.seed=1")


@pytest.mark.slow
def test_reproduce_goes_on(reproduce, kill, tmp_path):
    steps = {"train", "test", "speed"}

    def check(folder: Path, whole: bool) -> None:
        for path in folder.glob("*/state.json"):
            for record in json.loads(path.read_text()).values():
                assert record["status"] in ("running", "done")
                assert (record["status"] == "done") == ("results" in record)
        for path in folder.glob("*/configs/segformerpp_*.py"):
            assert "randomness" in path.read_text()
            compile(path.read_text(), path, "exec")
        for path in folder.glob("table.md"):
            assert path.read_text().startswith("# Cityscapes")
            assert path.read_text().endswith("in place of 500\n")
        for path in folder.glob("table.json"):
            rows = {row["row"]: row["steps"] for row in json.loads(path.read_text())["rows"]}
            assert len(rows) == 5
        if whole:
            for name in ("none", "hq"):
                assert set(json.loads((folder / name / "state.json").read_text())) == steps
                assert {step["status"] for step in rows[name].values()} == {"done"}
                assert rows[name]["test"]["results"]["metrics"] == {"mIoU": 79.5}
                expected = {"configs", *steps, *(f"{step}.log" for step in steps), "state.json"}
                found = {path.name for path in (folder / name).iterdir()}
                assert found == {*expected, ".alone"}  # no train.old1: the training went on
            assert (folder / "table.md").read_text().count("79.50") == 2
            assert not leftovers(folder)

    out = tmp_path / "reproduced"
    tool, table, *rest = reproduce
    kill(out, check, tool, table, "--work-dir", out, *rest, earliest=0.4)


@pytest.fixture
def disk(tmp_path):
    """Mount a small disk, where the system lets us."""
    mounted = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount a disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def calls(place: Path, out: Path) -> list[tuple]:
    """A call of each tool that writes below a folder."""
    own = ("--config", place / "tiny.py", "--checkpoint", place / "0.pth")
    images = place / "data/images/val"
    model = ("--model", "tiny", place / "tiny.py", place / "0.pth", "--vary", "downsample")
    export = ("--size", "96x128", "--format", "torch-export", "--out", out / "a.pt2")
    return [
        ("train.py", place / "trained.py", "--work-dir", out / "w"),
        ("infer.py", images, *own, "--out", out / "infer"),
        ("export.py", *own, *export),
        ("sweep.py", *model, "--out", out / "sweep"),
        ("visualize_merging.py", images, *own, "--out", out / "drawn"),
    ]


COMMANDS = [
    pytest.param(number, id=name, marks=() if name == "train" else pytest.mark.slow)
    for number, name in enumerate(("train", "infer", "export", "sweep", "draw"))
]


@pytest.mark.parametrize("options", ["size=8k", "ro"], ids=["full", "read-only"])
@pytest.mark.parametrize("number", COMMANDS)
def test_a_disk_that_takes_nothing_is_named_in_one_line(place, start, disk, options, number):
    folder = disk(options)
    process = start(*calls(place, folder)[number])
    _, said = process.communicate()
    assert process.returncode == 2, said[-2000:]
    line = said.strip().splitlines()[-1]
    assert "error: " in line
    assert str(folder) in line or (number, options) == (0, "size=8k")  # mm's log does not say
    assert "No space left" in line or "Read-only" in line
    assert "Traceback" not in said
    assert [
        p for p in visible(folder) if p.suffix in (".pt2", ".pth", ".jpg") and not p.stat().st_size
    ] == []


@pytest.mark.parametrize("number", COMMANDS)
def test_two_processes_do_not_write_into_one_folder(place, start, tmp_path, number):
    call = calls(place, tmp_path)[number]
    out, file = call[-1], None
    if out.suffix:
        out, file = out.parent, out.name
    with only_one(out, file=file):
        process = start(*call)
        _, said = process.communicate()
    assert process.returncode == 2
    named = f"writes {call[-1]}" if file else f"writes into {out}"
    assert f"error: another process {named}" in said.strip().splitlines()[-1]
    assert list(out.glob("*")) == []
