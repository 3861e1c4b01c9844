"""The folder of results: overlays, label maps, results.json. No file in it is ever half there."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from mmseg_tome.engine.errors import UserError
from mmseg_tome.inference.inputs import Item, Source, frame_rate
from mmseg_tome.inference.prediction import Prediction

RESULTS = "results.json"
OVERLAYS = "overlays"
LABELS = "labels"
MERGING = "merging"


class ResultsWriter:
    """Saves predictions in the order in which they come; those of a video one after the other.

    For an image `overlays/NAME.jpg` and, where there are label maps, `labels/NAME.png`; for a video
    `overlays/NAME.mp4` and `labels/NAME.mp4/000000.png` and so on. To be used as a context manager,
    which makes the folder, and at its end removes a video that was not finished, because of an
    error, and the folder if it stayed empty.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.entries: list[dict] = []
        self._video: _VideoWriter | None = None

    def add(self, item: Item, prediction: Prediction, merging: str | None = None) -> None:
        """Save one prediction.

        Args:
            item: The image.
            prediction: Of it.
            merging: Path in the folder of the figure of what merges in it, which is there already.

        Raises:
            UserError: A file cannot be written.
        """
        name = item.source.name
        height, width = item.image.shape[:2]
        entry = dict(path=str(item.source.path))
        if item.frame is None:
            overlay, labels = f"{OVERLAYS}/{name}.jpg", f"{LABELS}/{name}.png"
            self.finish_video()
            _write_image(self.folder / overlay, prediction.overlay)
        else:
            overlay, labels = f"{OVERLAYS}/{name}.mp4", f"{LABELS}/{name}.mp4/{item.frame:06d}.png"
            entry["frame"] = item.frame
            if self._video is None or self._video.source is not item.source:
                self.finish_video()
                self._video = _VideoWriter(item.source, self.folder / overlay, item.image)
            self._video.write(prediction.overlay)
        entry.update(width=width, height=height, overlay=overlay)
        if prediction.labels is not None:
            entry["labels"] = labels
            _write_image(self.folder / labels, prediction.labels)
        if merging is not None:
            entry["merging"] = merging
        self.entries.append({**entry, **prediction.result})

    def write(self, header: dict, failed: dict[Path, str]) -> Path:
        """Finish with results.json: `header`, then `images` and `failed`, a line for each.

        Raises:
            UserError: It cannot be written.
        """
        self.finish_video()
        failures = [dict(path=str(path), error=error) for path, error in failed.items()]
        parts = {key: json.dumps(value) for key, value in header.items()}
        parts.update(images=_lines(self.entries), failed=_lines(failures))
        text = ",\n".join(f'  "{key}": {value}' for key, value in parts.items())
        path = self.folder / RESULTS
        with replacing(path) as temporary:
            temporary.write_text(f"{{\n{text}\n}}\n")
        return path

    def finish_video(self) -> None:
        """Complete the overlay video that is being written, if one is."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def __enter__(self) -> "ResultsWriter":
        with _naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self._video is not None:
            self._video.discard()
        with suppress(OSError):
            self.folder.rmdir()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to that takes the place of `path` once the block is through.

    Raises:
        UserError: It cannot be written.
    """
    temporary = _temporary(path)
    try:
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _VideoWriter:
    """Writes the overlay video of a source; it is there once it is closed, gone if discarded."""

    def __init__(self, source: Source, path: Path, image: np.ndarray):
        self.source = source
        self._path, self._temporary = path, _temporary(path)
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        height, width = image.shape[:2]
        # The one codec for .mp4 that OpenCV's own packages can write.
        codec = cv2.VideoWriter_fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(
            str(self._temporary), codec, frame_rate(source.path), (width, height)
        )
        if not self._writer.isOpened():
            raise UserError(f"cannot write {path}, or this OpenCV writes no .mp4 videos")

    def write(self, image: np.ndarray) -> None:
        self._writer.write(image)

    def close(self) -> None:
        self._writer.release()
        with _naming(self._path):
            os.replace(self._temporary, self._path)

    def discard(self) -> None:
        self._writer.release()
        self._temporary.unlink(missing_ok=True)


def _write_image(path: Path, image: np.ndarray) -> None:
    with replacing(path) as temporary:
        try:
            written = cv2.imwrite(str(temporary), image)
        except cv2.error:
            written = False
        if not written:
            raise OSError("the disk is full, or the image too large for its format")


def _temporary(path: Path) -> Path:
    # The suffix stays: OpenCV chooses formats by it.
    return path.with_name(f".{path.stem}.part{path.suffix}")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _lines(entries: list[dict]) -> str:
    """A JSON list with a line for each entry."""
    lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
    return f"[\n{lines}\n  ]" if entries else "[]"
