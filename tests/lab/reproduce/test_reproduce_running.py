"""What runs, what is skipped, what a failure and an interruption leave, and the table of it all."""

import json
import signal
import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")

TOOLS = Path(__file__).resolve().parents[3] / "tools"

from mmseg_tome.cli import reproduce  # noqa: E402
from mmseg_tome.errors import UserError  # noqa: E402
from mmseg_tome.files import only_one  # noqa: E402
from mmseg_tome.lab.reproduce import plan, results, running  # noqa: E402
from mmseg_tome.processes import environment  # noqa: E402

MIOU = {"none": 80.0, "hq": 79.5}
MS = {"none": 10.0, "hq": 8.0}
PEER_FACTOR = 3


class FakeTools:
    """Stands in for `running.execute`: leaves the files that the standard tools leave.

    Attributes:
        ran: ``(row, step)`` of each command, in order.
        fail: Those that end with exit code 1.
        interrupt: Those during which Ctrl-C is pressed.
        metrics: What a test finds in place of the usual.
    """

    def __init__(self):
        self.ran, self.commands = [], []
        self.fail, self.interrupt = set(), set()
        self.metrics = None

    def __call__(self, command, log, env, lock) -> int:
        row, step = log.parent.name, log.stem
        self.ran.append((row, step))
        self.commands.append(command)
        folder = log.parent / step
        log.write_text(f"{step} of {row} begins\nerror: the last thing it said\n\n")
        if (row, step) in self.interrupt:
            (folder / "20260101").mkdir(parents=True)  # half of what it would have left
            raise KeyboardInterrupt
        if (row, step) in self.fail:
            return 1
        getattr(self, f"_{step}")(row, folder, command)
        return 0

    def _train(self, row, folder, command):
        (folder / "20260101" / "vis_data").mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(dict(memory=memory, loss=1.0)) for memory in (1024, 2048, 1536)]
        (folder / "20260101" / "vis_data" / "scalars.json").write_text(
            "\n".join([*lines, '{"memory": 99'])  # a killed training leaves half a line
        )
        (folder / "iter_160000.pth").write_text(row)

    def _test(self, row, folder, command):
        metrics = self.metrics or {"mIoU": MIOU.get(row, 70.0), "aAcc": 95.0}
        (folder / "20260101").mkdir(parents=True)
        (folder / "20260101" / "20260101.json").write_text(json.dumps(metrics))

    def _speed(self, row, folder, command):
        def entry(pipeline, variant, ms, baseline=False, speed=1.0):
            case = dict(size="1024x1024", batch=1, dtype="float32", device="cpu", part="model")
            found = dict(pipeline=pipeline, variant=variant, baseline=baseline, vs_none=speed)
            return {
                **case,
                **found,
                "latency_ms": {"median": ms},
                "memory_mib": 512.0,
                "error": None,
            }

        own = Path(command[command.index("--configs") + 1]).stem
        results = []
        for pipeline, factor in (("ours", 1), ("peer", PEER_FACTOR)):
            speed = MS["none"] / MS.get(row, 5.0)
            if row == "none":
                results.append(entry(pipeline, own, factor * MS["none"], baseline=True))
            else:
                results.append(entry(pipeline, "none", factor * MS["none"], baseline=True))
                results.append(entry(pipeline, own, factor * MS.get(row, 5.0), speed=speed))
        env = dict(cpu="a CPU", gpu=None, threads=2, versions=dict(torch="9.9"))
        folder.mkdir()
        (folder / "benchmark.json").write_text(json.dumps(dict(results=results, environment=env)))


@pytest.fixture
def tools(monkeypatch) -> FakeTools:
    fake = FakeTools()
    monkeypatch.setattr(running, "execute", fake)
    return fake


@pytest.fixture
def call(data, checkpoint, work_dir):
    """Run the tool on the rows `none` and `hq`."""

    def run(table="cityscapes-inference", *options):
        arguments = [table, "--data-root", data, "--checkpoint", checkpoint, "--device", "cpu"]
        arguments += ["--work-dir", work_dir, "--rows", "none", "hq", *options]
        return reproduce.main([str(argument) for argument in arguments])

    return run


def cells(work_dir, row) -> dict[str, str]:
    """A row of the written table, by heading."""
    lines = (work_dir / "table.md").read_text().splitlines()
    split = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    (found,) = [line for line in split if line[0] == row]
    return dict(zip(split[0], found, strict=True))


INFERENCE = [(row, step) for row in ("none", "hq") for step in ("test", "speed")]


# --- what runs ---


def test_a_table_from_beginning_to_end(call, tools, work_dir, capsys):
    assert call() == 0
    assert tools.ran == INFERENCE
    assert cells(work_dir, "hq") == {
        "row": "hq",
        "mIoU, paper": "82.31",
        "mIoU, measured": "79.50",
        "speed, paper": "1.61x",
        "speed, ours": "1.25x",
        "speed, peer": "1.25x",
        "ours / peer none": "3.75x",  # 30 ms over 8 ms
        "ms, ours": "8.0",
        "ms, peer": "24.0",
    }
    assert cells(work_dir, "none")["speed, ours"] == "1.00x"
    measured = {k: v for k, v in cells(work_dir, "fast").items() if "paper" not in k and k != "row"}
    assert set(measured.values()) == {"not run"}
    assert "| 79.50" in " ".join(capsys.readouterr().out.split())


def test_a_trained_table(call, tools, work_dir):
    assert call("cityscapes-training") == 0
    assert [step for row, step in tools.ran if row == "hq"] == ["train", "test", "speed"]
    found = cells(work_dir, "hq")
    assert (found["GB, paper"], found["GiB, trained"]) == ("34.0", "2.0")
    assert found["GiB of a step, ours"] == "0.5"
    assert found["mIoU, measured"] == "79.50"


def test_what_is_done_is_skipped(call, tools, capsys, data):
    call()
    tools.ran.clear()
    for path in data.rglob("*.png"):
        path.unlink()  # no longer needed
    assert call() == 0
    assert not tools.ran
    assert capsys.readouterr().out.count("is done, skipped") == len(INFERENCE)


def test_rows_add_up_and_without_speed_it_is_kept(call, tools, work_dir):
    call("cityscapes-inference", "--rows", "hq")
    call("cityscapes-inference", "--rows", "fast", "--no-speed")
    assert tools.ran == [("hq", "test"), ("hq", "speed"), ("fast", "test")]
    assert cells(work_dir, "hq")["speed, ours"] == "1.25x"
    assert cells(work_dir, "fast")["mIoU, measured"] == "70.00"
    assert cells(work_dir, "fast")["speed, ours"] == "not run"


def test_another_checkpoint_is_tested_anew(call, tools, checkpoint, capsys):
    call()
    tools.ran.clear()
    torch.save(dict(state_dict=dict(weight=torch.ones(1))), checkpoint)
    assert call() == 0
    assert tools.ran == [("none", "test"), ("hq", "test")]
    assert "test anew, its command, config or checkpoint has changed" in capsys.readouterr().out


def test_numbers_of_other_settings_are_not_shown(call, tools, work_dir):
    call()
    call("cityscapes-inference", "--rows", "none", "--cfg-options", "randomness.seed=1")
    assert cells(work_dir, "none")["mIoU, measured"] == "80.00"
    assert cells(work_dir, "hq")["mIoU, measured"] == "not run"
    text = (work_dir / "table.md").read_text()
    assert "hq: test was measured with another command" in text
    assert "**not the paper's settings**: --cfg-options randomness.seed=1" in text
    assert f"{work_dir / 'none' / 'configs'}" in " ".join(tools.commands[-1])


# --- interruptions and failures ---


def test_ctrl_c_keeps_what_is_done(call, tools, work_dir, capsys):
    tools.interrupt = {("hq", "test")}
    assert call() == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert cells(work_dir, "none")["mIoU, measured"] == "80.00"
    assert cells(work_dir, "hq")["mIoU, measured"] == "not run"
    tools.interrupt = set()
    tools.ran.clear()
    assert call() == 0
    assert tools.ran == [("hq", "test"), ("hq", "speed")]
    assert "test again, it was interrupted" in capsys.readouterr().out


def test_a_training_goes_on_where_it_was(call, tools, work_dir, capsys):
    tools.interrupt = {("none", "train")}
    assert call("cityscapes-training") == 130
    (work_dir / "none" / "train" / "iter_16000.pth").touch()
    tools.interrupt = set()
    assert call("cityscapes-training") == 0
    assert (work_dir / "none" / "train" / "iter_16000.pth").exists()
    first, second = (
        c for c, r in zip(tools.commands, tools.ran, strict=True) if r == ("none", "train")
    )
    assert first == second
    assert "--resume" in second
    assert "none: train goes on" in capsys.readouterr().out


def test_a_training_with_other_settings_begins_anew_and_keeps_the_old(call, tools, work_dir):
    call("cityscapes-training")
    tools.ran.clear()
    options = ("--no-speed", "--cfg-options", "optim_wrapper.optimizer.lr=1e-3")
    assert call("cityscapes-training", *options) == 0
    assert tools.ran == [(row, step) for row in ("none", "hq") for step in ("train", "test")]
    assert (work_dir / "none" / "train.old1" / "iter_160000.pth").exists()


def test_a_failure_ends_the_run_and_names_its_log(call, tools, work_dir, capsys):
    tools.fail = {("none", "test")}
    assert call() == 1
    assert tools.ran == [("none", "test")]
    err = capsys.readouterr().err
    assert "none: test ended with exit code 1: error: the last thing it said" in err
    assert str(work_dir / "none" / "test.log") in err
    assert (work_dir / "none" / "test.log").is_file()
    assert cells(work_dir, "none")["mIoU, measured"] == "failed"
    assert cells(work_dir, "hq")["mIoU, measured"] == "not run"


def test_keep_going(call, tools, work_dir):
    tools.fail = {("none", "test")}
    assert call("cityscapes-inference", "--keep-going") == 1
    assert cells(work_dir, "hq")["mIoU, measured"] == "79.50"
    tools.fail = set()
    tools.ran.clear()
    assert call() == 0
    assert tools.ran == [("none", "test"), ("none", "speed")]


@pytest.mark.parametrize("metrics", [{"aAcc": 90.0}, {"mIoU": float("nan")}])
def test_a_test_without_its_number_has_failed(call, tools, work_dir, metrics, capsys):
    tools.metrics = metrics
    assert call() == 1
    assert "left no number mIoU" in capsys.readouterr().err
    assert cells(work_dir, "none")["mIoU, measured"] == "failed"


def test_a_training_without_its_checkpoint_has_failed(call, tools, monkeypatch, capsys):
    monkeypatch.setattr(tools, "_train", lambda *args: None, raising=False)
    assert call("cityscapes-training") == 1
    assert "iter_160000.pth" in capsys.readouterr().err


def test_a_pipeline_that_failed_is_told(call, tools, work_dir, monkeypatch):
    """The peer may run out of memory where ours does not."""

    def speed(row, folder, command):
        FakeTools._speed(tools, row, folder, command)
        found = json.loads((folder / "benchmark.json").read_text())
        for entry in found["results"]:
            if entry["pipeline"] == "peer":
                entry.update(latency_ms=None, vs_none=None, memory_mib=None, error="out of memory")
        (folder / "benchmark.json").write_text(json.dumps(found))

    monkeypatch.setattr(tools, "_speed", speed, raising=False)
    assert call() == 0
    row = cells(work_dir, "hq")
    assert (row["speed, ours"], row["speed, peer"], row["ours / peer none"]) == ("1.25x", "-", "-")
    assert "hq: speed, peer: out of memory" in (work_dir / "table.md").read_text()


def test_a_row_runs_once_at_a_time(call, tools, work_dir, capsys, monkeypatch):
    monkeypatch.setattr(running, "WAIT", 0.2)
    with running.locked(work_dir / "none"):
        assert call() == 2
    assert f"another process writes into {work_dir / 'none'}" in capsys.readouterr().err
    assert not tools.ran


def test_two_processes_do_not_write_over_each_others_table(call, tools, work_dir, monkeypatch):
    call("cityscapes-inference", "--rows", "hq")
    known = (work_dir / "hq" / plan.STATE).read_text()
    (work_dir / "hq" / plan.STATE).unlink()
    other = only_one(work_dir)  # writes its table, in which the row `hq` is not yet done
    other.__enter__()

    def finish():
        (work_dir / "hq" / plan.STATE).write_text(known)
        other.__exit__(None, None, None)

    timer = threading.Timer(0.5, finish)

    def speed(*args):  # the last step before the table
        FakeTools._speed(tools, *args)
        timer.start()

    monkeypatch.setattr(tools, "_speed", speed, raising=False)
    assert call("cityscapes-inference", "--rows", "none") == 0
    timer.join()
    assert cells(work_dir, "none")["mIoU, measured"] == "80.00"
    assert cells(work_dir, "hq")["mIoU, measured"] == "79.50"


def test_a_state_does_not_outlive_the_files_it_tells_of(call, tools, work_dir, monkeypatch):
    """A run that is killed as it puts an earlier training aside."""
    call("cityscapes-training", "--rows", "none")

    def killed(row, step):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(running, "_prepare", killed)
        with pytest.raises(SystemExit):
            call("cityscapes-training", "--rows", "none", "--cfg-options", "randomness.seed=1")
    tools.ran.clear()
    assert call("cityscapes-training", "--rows", "none") == 0
    assert ("none", "train") in tools.ran


@pytest.mark.parametrize("text", ["{", "[]", '{"test": 1}', '{"test": {}}'])
def test_a_damaged_state_is_named(tmp_path, text):
    (tmp_path / plan.STATE).write_text(text)
    with pytest.raises(UserError, match=r"cannot read the row's state in .*state\.json"):
        plan.read_records(tmp_path)


# --- commands ---


def python(code: str) -> tuple[str, ...]:
    return ("python", "-c", code)


def test_a_command_is_added_to_its_log(tmp_path):
    log = tmp_path / "a.log"
    code = "import sys; print('first'); sys.exit(3)"
    assert running.execute(python(code), log, environment()) == 3
    text = log.read_text()
    assert text.startswith("$ python -c ")
    assert text.endswith("first\n")
    running.execute(python("print('second')"), log, environment())
    assert log.read_text().startswith(text)


def test_the_end_of_a_job_is_an_interruption():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), running.interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("device", "given", "visible"),
    [("cpu", None, ""), ("cuda:1", None, "1"), ("cuda:1", "4,6", "6"), ("cuda", "4,6", "4,6")],
)
def test_commands_see_the_device_alone(monkeypatch, device, given, visible):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert environment(**running.visible_gpus(device))["CUDA_VISIBLE_DEVICES"] == visible


# --- the table ---


def test_the_json_holds_what_the_table_shows(call, tools, work_dir):
    tools.fail = {("hq", "speed")}
    call()
    found = json.loads((work_dir / "table.json").read_text())
    rows = {row["row"]: row for row in found["rows"]}
    assert rows["none"]["paper"]["accuracy"] == {"mIoU": 82.39}
    assert rows["none"]["steps"]["test"]["results"]["metrics"]["mIoU"] == 80.0
    assert rows["hq"]["steps"]["speed"]["status"] == "failed"
    assert rows["hq"]["steps"]["speed"]["results"] is None
    assert rows["fast"]["steps"]["test"]["status"] == "not run"
    assert any("in place of 500" in line for line in found["remarks"])
    assert any(line.startswith("peer: ") for line in found["legend"])


def test_the_legend_explains_what_is_shown_alone(call, tools, work_dir):
    call("cityscapes-inference", "--no-speed")
    text = (work_dir / "table.md").read_text()
    assert "tomesd" not in text
    assert results.OVER_PEER not in text
    assert "fused also without merging" in text
