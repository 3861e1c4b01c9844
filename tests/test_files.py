"""What is left by processes that were killed."""

import os
import subprocess
import sys

import pytest

from mmseg_tome.files import replacing

KILLED = """
import os, sys
from pathlib import Path
from mmseg_tome.files import replacing
path = Path(sys.argv[1])
with replacing(path) as folder:
    folder.mkdir()
    (folder / "models").mkdir()
    (folder / "models" / "none.onnx").write_text("half")
    if sys.argv[2] == "while moving":  # the old folder is away, the new one not there
        Path.rename(path, path.with_name(f".{path.name}.{os.getpid()}.old"))
    os._exit(9)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def page(tmp_path):
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("old")
    return page


@pytest.mark.parametrize("moment", ["while writing", "while moving"])
def test_a_folder_that_was_being_written_goes(page, moment):
    command = [sys.executable, "-c", KILLED, str(page), moment]
    assert subprocess.run(command).returncode == 9
    assert len(names(page.parent)) == 2
    with replacing(page) as folder:
        assert names(page.parent) == ["page"]
        assert names(page) == ["index.html"]
        folder.mkdir()
        (folder / "new.html").touch()
    assert names(page.parent) == ["page"]
    assert names(page) == ["new.html"]


def test_what_is_not_ours_stays(page):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           stdout=subprocess.PIPE, text=True).stdout.strip()  # fmt: skip
    others = [
        f".page.{os.getppid()}.part",  # of a process that runs
        ".page.mine.part",
        f".pages.{ended}.part",
        f"page.{ended}.part",
        f".page.{ended}.part.d",
        ".page.20261231.old",
        ".page.20261231235959.part",
    ]
    for name in others:
        (page.parent / name).mkdir()
    (page.parent / "target").mkdir()
    (page.parent / "target" / "file").touch()
    (page.parent / f".page.{ended}.old").touch()  # ours are folders
    (page.parent / f".page.{ended}.part").symlink_to(page.parent / "target")
    with pytest.raises(RuntimeError), replacing(page):
        raise RuntimeError
    assert names(page.parent) == sorted([*others, f".page.{ended}.old", "page", "target"])
    assert names(page.parent / "target") == ["file"]
