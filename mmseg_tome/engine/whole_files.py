"""Checkpoints that are whole or not there, and a training that goes on from the last whole one.

mmengine writes a checkpoint under its final name, and with `max_keep_ckpts` removes the last one
before that: a training that is killed meanwhile leaves half a file, or none.
"""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log

from mmseg_tome.errors import UserError
from mmseg_tome.files import only_one
from mmseg_tome.registry import HOOKS

LAST = "last_checkpoint"
"""File in a work dir that names the latest checkpoint."""


class WholeFilesBackend(LocalBackend):
    """mmengine's local files, each of which takes its name when it is complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file.

        Raises:
            UserError: It cannot be written.
        """
        path = Path(filepath)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(obj)
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def install() -> None:
    """Let mmengine write local files through `WholeFilesBackend`."""
    register_backend("local", WholeFilesBackend, force=True, prefixes="")


@HOOKS.register_module()
class SaveFirstCheckpointHook(CheckpointHook):
    """mmengine's, which removes what is outdated after a new checkpoint is there, not before."""

    def _save_checkpoint_with_step(self, runner, step, meta):
        keep, outdated = self.max_keep_ckpts, []
        if keep > 0 and not (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            kept = [*self.keep_ckpt_ids, step]
            outdated, kept = kept[:-keep], kept[-keep:]
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        self.max_keep_ckpts = -1
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = keep
        for old in outdated if is_main_process() else ():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # as DeepSpeed saves them
                self.file_backend.rmtree(path)


def find_resumable(work_dir: str | Path) -> str | None:
    """The latest whole checkpoint of a training in its work dir, or None.

    Checkpoints that are not whole, and a `last_checkpoint` that names none, are told of and passed
    over.
    """
    folder = Path(work_dir)
    named: list[Path] = []
    with suppress(OSError, ValueError):  # absent, or not text
        text = (folder / LAST).read_text().strip()
        named = [Path(text), folder / Path(text).name] if text else []
    found = sorted(folder.glob("*.pth"), key=_progress, reverse=True)
    for path in [*named, *(path for path in found if _progress(path))]:
        if not path.is_file():
            continue
        if zipfile.is_zipfile(path):  # its directory stands at the end
            if named and path not in named:
                print_log(f"{LAST} names no whole checkpoint, {path} is resumed", "current")
            return str(path)
        print_log(f"{path} is not whole and is passed over", "current")
    return None


def _progress(path: Path) -> tuple[int, float]:
    """Order of a training's checkpoints; () of other files."""
    match = re.fullmatch(r"(?:iter|epoch)_(\d+)\.pth", path.name)
    return (int(match[1]), path.stat().st_mtime) if match else ()


@contextmanager
def alone_in(work_dir: str | Path) -> Iterator[None]:
    """Hold a work dir while a training runs; the processes of one job hold it together.

    What an earlier one was writing when it was killed is removed.

    Raises:
        UserError: Another job trains in it, or it cannot be written.
    """
    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0):
        yield
        return
    with only_one(work_dir):
        for left in Path(work_dir).glob(".*.part"):
            with suppress(OSError):
                left.unlink()
        yield
