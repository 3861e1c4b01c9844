import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_tome.engine.errors import UserError
from mmseg_tome.inference.inputs import Item, Source
from mmseg_tome.inference.prediction import Prediction
from mmseg_tome.inference.results import ResultsWriter, replacing

IMAGE = np.full((32, 48, 3), 100, np.uint8)
LABELS = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48)


def add(writer, name="a", frame=None):
    source = Source(Path(f"in/{name}.png"), name, frame is not None)
    writer.add(Item(source, IMAGE, frame), Prediction(dict(ms=1.5), IMAGE, LABELS))


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_is_written(tmp_path):
    with ResultsWriter(tmp_path) as writer:
        add(writer, "a/b.c")
        writer.write(dict(task="t", classes=["x"]), {Path("d.png"): "why"})
    assert files(tmp_path) == ["labels/a/b.c.png", "overlays/a/b.c.jpg", "results.json"]
    assert np.array_equal(cv2.imread(str(tmp_path / "labels/a/b.c.png"), -1), LABELS)
    assert json.loads((tmp_path / "results.json").read_text()) == dict(
        task="t",
        classes=["x"],
        images=[
            dict(
                path="in/a/b.c.png",
                width=48,
                height=32,
                overlay="overlays/a/b.c.jpg",
                labels="labels/a/b.c.png",
                ms=1.5,
            )
        ],
        failed=[dict(path="d.png", error="why")],
    )


def test_an_error_leaves_nothing_unfinished(tmp_path):
    (tmp_path / "results.json").write_text("good")

    def interrupted():
        with ResultsWriter(tmp_path) as writer:
            add(writer, "video", frame=0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(tmp_path) == ["labels/video.mp4/000000.png", "results.json"]
    assert (tmp_path / "results.json").read_text() == "good"


def test_a_folder_without_results_is_not_left_behind(tmp_path):
    with ResultsWriter(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


def test_a_file_is_replaced_in_one_piece_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        full = pytest.raises(UserError, match=r"cannot write .*a.json: No space left")
        with full, replacing(path) as temporary:
            temporary.write_text("new")
    assert path.read_text() == "old"
    assert files(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), ResultsWriter(tmp_path / "file" / "out"):
        pass
