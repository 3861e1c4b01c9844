"""Checkpoints are whole or not there; a training goes on from the last whole one."""

import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook

from mmseg_tome.cli.running import alone_in, find_resumable
from mmseg_tome.errors import UserError
from mmseg_tome.files import LOCK, only_one
from mmseg_tome.hooks import SaveFirstCheckpointHook
from mmseg_tome.hooks.checkpoints import WholeFilesBackend


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_mmengine_writes_through_it(tmp_path):
    backend = get_file_backend(str(tmp_path / "a.pth"))
    assert type(backend) is WholeFilesBackend
    backend.put(b"content", tmp_path / "new" / "a.pth")
    assert (tmp_path / "new" / "a.pth").read_bytes() == b"content"
    assert names(tmp_path / "new") == ["a.pth"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_text("old")

    def full(self, obj):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.pth: No space left on device"):
        WholeFilesBackend().put(b"new", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_text() == "old"
    assert names(tmp_path) == ["a.pth"]


@pytest.fixture
def saving(tmp_path, monkeypatch):
    """A hook that keeps two checkpoints, and the files that stand while it saves a third."""
    seen = []

    def save(self, runner, step, meta):
        seen.append(names(tmp_path))
        assert self.max_keep_ckpts == -1
        if step == "full":
            raise UserError("the disk is full")
        (tmp_path / f"iter_{step}.pth").touch()

    monkeypatch.setattr(CheckpointHook, "_save_checkpoint_with_step", save)
    hook = SaveFirstCheckpointHook(interval=1, by_epoch=False, max_keep_ckpts=2)
    hook.out_dir, hook.filename_tmpl = str(tmp_path), "iter_{}.pth"
    hook.file_backend, hook.keep_ckpt_ids = WholeFilesBackend(), deque(maxlen=2)
    infos = {}
    runner = type("Runner", (), {})()
    runner.message_hub = type("Hub", (), {"update_info": staticmethod(infos.__setitem__)})()
    return hook, runner, seen, infos


def test_a_checkpoint_is_removed_after_the_new_one_is_there(saving, tmp_path):
    hook, runner, seen, infos = saving
    for step in (1, 2, 3, 3, 4):
        hook._save_checkpoint_with_step(runner, step, None)
    assert seen[2] == ["iter_1.pth", "iter_2.pth"]
    assert names(tmp_path) == ["iter_3.pth", "iter_4.pth"]
    assert list(hook.keep_ckpt_ids) == infos["keep_ckpt_ids"] == [3, 4]
    assert hook.max_keep_ckpts == 2
    with pytest.raises(UserError):
        hook._save_checkpoint_with_step(runner, "full", None)
    assert names(tmp_path) == ["iter_3.pth", "iter_4.pth"]


def test_an_outdated_checkpoint_may_be_a_folder(saving, tmp_path):
    hook, runner, *_ = saving
    for step in (1, 2):
        hook._save_checkpoint_with_step(runner, step, None)
    (tmp_path / "iter_1.pth").unlink()
    (tmp_path / "iter_1.pth").mkdir()
    (tmp_path / "iter_1.pth" / "rank_0.pt").touch()
    hook._save_checkpoint_with_step(runner, 3, None)
    assert names(tmp_path) == ["iter_2.pth", "iter_3.pth"]


@pytest.fixture
def work(tmp_path):
    for i in (2, 4, 10):
        torch.save(dict(iter=i), tmp_path / f"iter_{i}.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_10.pth"))
    return tmp_path


def test_the_last_checkpoint_is_resumed(work):
    assert find_resumable(work) == str(work / "iter_10.pth")
    (work / "last_checkpoint").write_text("work_dirs/elsewhere/iter_4.pth")  # it was moved
    assert find_resumable(work) == str(work / "iter_4.pth")


@pytest.mark.parametrize("last", [None, b"", b"\xff\xfe", b"gone.pth", b"iter_10.pth"])
def test_a_half_written_checkpoint_is_passed_over(work, last):
    content = (work / "iter_10.pth").read_bytes()
    (work / "iter_10.pth").write_bytes(content[: len(content) // 2])
    (work / "last_checkpoint").unlink()
    if last is not None:
        (work / "last_checkpoint").write_bytes(last)
    (work / "best_mIoU_iter_99.pth").write_bytes(content)  # of no use for going on
    assert find_resumable(work) == str(work / "iter_4.pth")


def test_nothing_to_resume(tmp_path):
    assert find_resumable(tmp_path) is None
    assert find_resumable(tmp_path / "nowhere") is None


def test_only_one_process_writes_into_a_folder(tmp_path):
    code = (
        "import sys; from mmseg_tome.files import only_one\n"
        "with only_one(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    other = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "out")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    try:
        assert "held\n" in iter(other.stdout.readline, "")  # other lines are of the mm stack
        with pytest.raises(UserError, match=r"another process writes into .*out: wait for it"):
            only_one(tmp_path / "out").__enter__()
        other.kill()
        other.wait()
        with only_one(tmp_path / "out"):
            assert names(tmp_path / "out") == [LOCK]
        assert names(tmp_path / "out") == []
    finally:
        other.kill()
        other.communicate()


def test_a_folder_that_cannot_be_held(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file"), only_one(tmp_path / "file"):
        pass


def test_processes_of_one_job_hold_a_work_dir_together(tmp_path, monkeypatch):
    (tmp_path / ".iter_2.pth.123.part").touch()
    with alone_in(tmp_path):
        assert names(tmp_path) == [LOCK]
        monkeypatch.setenv("RANK", "1")
        with alone_in(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError, match="another process"), alone_in(tmp_path):
            pass
