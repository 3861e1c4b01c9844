"""The folder of results: overlays, label maps, results.json, each written atomically."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmseg_tome.errors import UserError
from mmseg_tome.files import naming, only_one, part_of, remove_leftovers, replacing
from mmseg_tome.predict.inputs import Item, frame_rate


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's result.

    Attributes:
        result: What results.json says of it.
        overlay: The image with the prediction painted over it, `[H, W, 3]` uint8, BGR.
        labels: Class of each pixel, `[H, W]` uint8, uint16 of more than 256 classes; None for pose.
    """

    result: dict
    overlay: np.ndarray
    labels: np.ndarray | None = None


RESULTS = "results.json"
OVERLAYS = "overlays"
LABELS = "labels"
MERGING = "merging"
WRITTEN = ".written"
"""Lists the files of a run that has not ended, a line each."""

JPEG_SIDE = 65500
"""Pixels; larger images cannot be JPEGs."""


class UnwritableError(UserError):
    """A prediction that no file format can hold; the message does not name the image."""


class ResultsWriter:
    """Saves predictions in the order in which they come; those of a video one after the other.

    For an image `overlays/NAME.jpg` and, where there are label maps, `labels/NAME.png`; for a video
    `overlays/NAME.mp4` and `labels/NAME.mp4/000000.png` and so on, for pages `NAME.tif/000000` in
    both. Where frames of a stream were passed over, its video shows the one before for longer. An
    overlay of more than 65,500 pixels in a row or column is a PNG. To be used as a context manager,
    which makes the folder, and at its end removes a video that was not finished, because of an
    error, and the folder if it stayed empty.

    What an earlier run left in the folder goes once results.json is written: the files that its
    results.json lists, or those that it wrote before it was ended.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.entries: list[dict] = []
        self._video: _VideoWriter | None = None
        self._files: set[str] = set()
        self._earlier: set[str] = set()

    def add(self, item: Item, prediction: Prediction, merging: str | None = None) -> None:
        """Save one prediction.

        Args:
            item: The image.
            prediction: Of it.
            merging: Path in the folder of the figure of what merges in it, noted and drawn.

        Raises:
            UnwritableError: There is no format for it.
            UserError: A file cannot be written.
        """
        name = item.source.name
        height, width = item.image.shape[:2]
        entry = dict(path=str(item.source.path))
        if item.frame is not None:
            entry["frame"] = item.frame
        if item.frame is None or item.source.is_paged:
            if item.source.is_paged:
                name = f"{name}.tif/{item.frame:06d}"
            ending = "jpg" if max(prediction.overlay.shape[:2]) <= JPEG_SIDE else "png"
            overlay, labels = f"{OVERLAYS}/{name}.{ending}", f"{LABELS}/{name}.png"
            self.finish_video()
            self.note(overlay)
            _write_image(self.folder / overlay, prediction.overlay)
        else:
            overlay, labels = f"{OVERLAYS}/{name}.mp4", f"{LABELS}/{name}.mp4/{item.frame:06d}.png"
            if self._video is None or self._video.source is not item.source:
                self.finish_video()
                self.note(overlay)
                self._video = _VideoWriter(item, self.folder / overlay)
            self._video.write(prediction.overlay, item.frame)
        entry.update(width=width, height=height, overlay=overlay)
        if prediction.labels is not None:
            entry["labels"] = labels
            self.note(labels)
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
        self._remove((self._earlier | self._files) - set(_listed(self.entries)))
        (self.folder / WRITTEN).unlink(missing_ok=True)
        return path

    def note(self, file: str) -> None:
        """Remember a file before it is written, also for the next run if this one is killed.

        Args:
            file: Its path in the folder.
        """
        if file not in self._files:
            self._files.add(file)
            with naming(self.folder / WRITTEN):
                self.folder.mkdir(parents=True, exist_ok=True)
                with (self.folder / WRITTEN).open("a", encoding="utf-8") as journal:
                    journal.write(f"{json.dumps(file)}\n")

    def _read_earlier(self) -> set[str]:
        """Files of earlier runs."""
        found = set()
        with suppress(OSError, ValueError, TypeError, KeyError):  # it may be of another program
            found |= set(_listed(json.loads((self.folder / RESULTS).read_text())["images"]))
        with suppress(OSError, ValueError):
            lines = (self.folder / WRITTEN).read_text(encoding="utf-8").splitlines()
            for line in lines:
                with suppress(ValueError):  # a run was killed as it wrote the last one
                    found.add(str(json.loads(line)))
        return found

    def _remove(self, files: set[str]) -> None:
        """Remove files below our folders, and folders that are empty then."""
        for file in sorted(files):
            path = self.folder / file
            for base in (self.folder / kind for kind in (OVERLAYS, LABELS, MERGING)):
                # A list that somebody changed must not reach other files.
                if path.resolve().is_relative_to(base.resolve()) and not path.is_dir():
                    with suppress(OSError):
                        remove_leftovers(path)
                        path.unlink(missing_ok=True)
                        for parent in path.parents:
                            if parent == self.folder:
                                break
                            parent.rmdir()

    def finish_video(self) -> None:
        """Complete the overlay video that is being written, if one is."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def __enter__(self) -> "ResultsWriter":
        self._lock = only_one(self.folder)
        self._lock.__enter__()
        self._earlier = self._read_earlier()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self._video is not None:
            self._video.discard()
        self._lock.__exit__(None, None, None)
        with suppress(OSError):
            self.folder.rmdir()


class _VideoWriter:
    """Writes the overlay video of a source; it is there once it is closed, gone if discarded."""

    def __init__(self, first: Item, path: Path):
        self.source = first.source
        self._path, self._temporary = path, part_of(path)
        self._next = first.frame
        remove_leftovers(path)
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()  # OpenCV does not say why it cannot write
        height, width = first.image.shape[:2]
        rate = first.rate or frame_rate(first.source.address or first.source.path)
        # The one codec for .mp4 that OpenCV's own packages can write.
        codec = cv2.VideoWriter_fourcc(*"mp4v")
        self._size = (width, height)
        self._writer = cv2.VideoWriter(str(self._temporary), codec, rate, self._size)
        if not self._writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise UnwritableError(
                f"OpenCV writes no .mp4 video of {width}x{height} pixels here: run its frames as "
                "images"
            )

    def write(self, image: np.ndarray, number: int) -> None:
        if image.shape[1::-1] != self._size:  # a camera was turned
            image = cv2.resize(image, self._size)
        for _ in range(self._next, number):
            self._writer.write(self._last)
        self._writer.write(image)
        self._next, self._last = number + 1, image

    def close(self) -> None:
        self._writer.release()
        video = cv2.VideoCapture(str(self._temporary))
        whole = video.isOpened()
        video.release()
        with naming(self._path):
            if not whole:  # its index, which is written last, is missing
                raise OSError("the disk is full")
            os.replace(self._temporary, self._path)

    def discard(self) -> None:
        self._writer.release()
        self._temporary.unlink(missing_ok=True)


def _write_image(path: Path, image: np.ndarray) -> None:
    try:
        good, content = cv2.imencode(path.suffix, image)
    except (cv2.error, MemoryError):
        good = False
    if not good:
        height, width = image.shape[:2]
        raise UnwritableError(f"{width}x{height} pixels are too many for a {path.suffix} file")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _listed(entries: list[dict]) -> Iterator[str]:
    """Files that results.json lists."""
    for entry in entries:
        for key in ("overlay", "labels", "merging"):
            if isinstance(entry, dict) and isinstance(entry.get(key), str):
                yield entry[key]


def _lines(entries: list[dict]) -> str:
    """A JSON list with a line for each entry."""
    lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
    return f"[\n{lines}\n  ]" if entries else "[]"
