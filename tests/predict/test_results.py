import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_tome.errors import UserError
from mmseg_tome.predict.inputs import Item, Source
from mmseg_tome.predict.results import Prediction, ResultsWriter, UnwritableError, replacing

IMAGE = np.full((32, 48, 3), 100, np.uint8)
LABELS = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48)


def add(writer, name="a", frame=None, merging=None):
    source = Source(Path(f"in/{name}.png"), name, frame is not None)
    writer.add(Item(source, IMAGE, frame), Prediction(dict(ms=1.5), IMAGE, LABELS), merging)


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
    assert files(tmp_path) == [".written", "labels/video.mp4/000000.png", "results.json"]
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


def test_an_overlay_too_wide_for_a_jpeg_is_a_png(tmp_path):
    wide = np.full((2, 65501, 3), 100, np.uint8)
    with ResultsWriter(tmp_path) as writer:
        source = Source(Path("wide.png"), "wide", False)
        writer.add(Item(source, wide), Prediction({}, wide, wide[..., 0]))
        assert writer.entries[0]["overlay"] == "overlays/wide.png"
    assert np.array_equal(cv2.imread(str(tmp_path / "overlays/wide.png")), wide)


def test_an_image_without_a_format_is_told_apart_from_a_full_disk(tmp_path, monkeypatch):
    with ResultsWriter(tmp_path) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(cv2, "imencode", lambda *_: (False, None))
            with pytest.raises(UnwritableError, match=r"48x32 pixels are too many for a \.jpg"):
                add(writer)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full_disk)
            with pytest.raises(UserError, match=r"cannot write .*a\.jpg: No space") as caught:
                add(writer)
            assert not isinstance(caught.value, UnwritableError)
        assert not writer.entries


def full_disk(*_):
    raise OSError(28, "No space left on device")


def run(folder: Path, *names: str, killed: bool = False) -> None:
    writer = ResultsWriter(folder)
    writer.__enter__()
    for name in names:
        add(writer, name)
    if not killed:
        writer.write({}, {})
        writer.__exit__(None, None, None)


def test_what_an_earlier_run_left_is_removed(tmp_path):
    run(tmp_path, "a", "b/c", "d")
    (tmp_path / "overlays/mine.jpg").touch()
    run(tmp_path, "d", "e")
    assert files(tmp_path) == [
        *("labels/d.png", "labels/e.png"),
        *("overlays/d.jpg", "overlays/e.jpg", "overlays/mine.jpg"),
        "results.json",
    ]
    assert not (tmp_path / "labels/b").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_figures_of_merging_go_with_their_images(tmp_path, killed):
    with ResultsWriter(tmp_path) as writer:
        for name in ("a", "b"):
            writer.note(f"merging/{name}.png")
            (tmp_path / "merging").mkdir(exist_ok=True)
            (tmp_path / f"merging/{name}.png").touch()
            if name == "a":  # the other's image failed, or the run was killed
                add(writer, name, merging=f"merging/{name}.png")
        if not killed:
            writer.write({}, {})
            assert (tmp_path / "merging/a.png").exists()
            assert not (tmp_path / "merging/b.png").exists()
    run(tmp_path, "b")
    assert files(tmp_path) == ["labels/b.png", "overlays/b.jpg", "results.json"]
    assert not (tmp_path / "merging").exists()


def test_what_a_killed_run_left_is_removed(tmp_path):
    run(tmp_path, "a", "b", killed=True)
    (tmp_path / ".written").open("a").write('"overlays/c')  # as it was killed
    run(tmp_path, "b")
    assert files(tmp_path) == ["labels/b.png", "overlays/b.jpg", "results.json"]


def test_earlier_results_stay_until_there_are_new_ones(tmp_path):
    run(tmp_path, "a")
    run(tmp_path, "b", killed=True)
    assert "overlays/a.jpg" in files(tmp_path)
    run(tmp_path, "c")
    assert files(tmp_path) == ["labels/c.png", "overlays/c.jpg", "results.json"]


def test_a_list_that_somebody_changed_reaches_no_other_files(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "mine.jpg").touch()
    (tmp_path / "out/mine.jpg").touch()
    entries = [dict(overlay=str(path)) for path in ("../mine.jpg", "overlays/../mine.jpg", 3)]
    entries.append(dict(overlay=str(tmp_path / "mine.jpg")))
    (tmp_path / "out/results.json").write_text(json.dumps(dict(images=entries)))
    run(tmp_path / "out", "a")
    assert (tmp_path / "mine.jpg").exists()
    assert (tmp_path / "out/mine.jpg").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": 3}', '{"images": [3]}'])
def test_earlier_results_of_another_kind(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    run(tmp_path, "a")
    assert json.loads((tmp_path / "results.json").read_text())["images"]


def video_of(path: Path) -> tuple[float, list[int]]:
    """Frames per second, and the mean of each."""
    video, greys = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        assert read[1].shape == IMAGE.shape
        greys.append(round(read[1].mean(), -1))
    return video.get(cv2.CAP_PROP_FPS), greys


def test_the_video_of_a_stream_keeps_time(tmp_path):
    """Also where frames were passed over, or a camera was turned."""
    source = Source("rtsp://camera", "camera", True, address="rtsp://camera", is_live=True)
    with ResultsWriter(tmp_path) as writer:
        for number in (7, 8, 11):
            image = np.full_like(IMAGE, number * 20)
            image = image.transpose(1, 0, 2) if number == 8 else image
            writer.add(Item(source, image, number, 12.0), Prediction({}, image))
        writer.write({}, {})
    assert video_of(tmp_path / "overlays/camera.mp4") == (12, [140, 160, 160, 160, 220])
    assert [entry["frame"] for entry in writer.entries] == [7, 8, 11]


def test_pages_are_images(tmp_path):
    source = Source(Path("a.tif"), "a", False, images=2, is_paged=True)
    with ResultsWriter(tmp_path) as writer:
        for number, image in enumerate((IMAGE, IMAGE[:9])):
            writer.add(Item(source, image, number), Prediction({}, image, image[..., 0]))
        writer.write({}, {})
    assert files(tmp_path) == [
        *("labels/a.tif/000000.png", "labels/a.tif/000001.png"),
        *("overlays/a.tif/000000.jpg", "overlays/a.tif/000001.jpg"),
        "results.json",
    ]
    assert [entry["frame"] for entry in writer.entries] == [0, 1]


def test_a_video_larger_than_its_format(tmp_path):
    wide = np.zeros((2, 70000, 3), np.uint8)
    source = Source(Path("wide.mp4"), "wide", True)
    refused = pytest.raises(UnwritableError, match=r"no \.mp4 video of 70000x2 pixels")
    with ResultsWriter(tmp_path / "out") as writer, refused:
        writer.add(Item(source, wide, 0), Prediction({}, wide, None))
    assert [path.name for path in (tmp_path / "out").rglob("*.mp4")] == []
