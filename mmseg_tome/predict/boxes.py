"""Boxes of persons that a user gives for images, in COCO's formats."""

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from mmseg_tome.errors import UserError


class Boxes:
    """The boxes of a JSON file, by image. Two formats, both with boxes `[x, y, w, h]` in pixels:

    - detections: `[{"file_name": "a.jpg", "bbox": [...], "score": 0.9}, ...]`; in place of
      `file_name`, COCO's `image_id` is taken for the number that the file is named by
      (785 for 000000000785.jpg);
    - annotations: `{"images": [{"id", "file_name"}, ...], "annotations": [{"image_id", "bbox"},
      ...]}`; crowds (`iscrowd`) are left out.

    A `file_name` fits an image whose path ends with it. Every box is taken, whatever its category.

    Args:
        path: The file.
        threshold: Detections below this score are left out.

    Raises:
        UserError: The file is missing or has another format.
    """

    def __init__(self, path: str | Path, threshold: float = 0.3):
        self.path = Path(path)
        self._by_image: dict[str, list[list[float]]] = defaultdict(list)
        entries, names = self._read()
        for number, entry in enumerate(entries):
            try:
                image = entry.get("file_name") or entry["image_id"]
                key = _normalised(str(names.get(image, image)))
                box = [float(value) for value in entry["bbox"]]
                score = float(entry.get("score", 1))
            except (AttributeError, KeyError, TypeError, ValueError):
                raise self._error(f"entry {number} has no image, or no box of numbers") from None
            if len(box) != 4 or not all(map(math.isfinite, box)):
                raise self._error(f"entry {number} has {box} for a box, not [x, y, w, h]")
            boxes = self._by_image[key]
            if score >= threshold and min(box[2:]) > 0 and not entry.get("iscrowd"):
                boxes.append([*box, score])

    def of(self, image: Path | str) -> np.ndarray | None:
        """Boxes of an image: `[N, 5]` float32 of x, y, w, h, score; None if it is not listed."""
        path = Path(image).resolve()
        ends = ["/".join(path.parts[first:]) for first in range(1, len(path.parts))]
        for key in [path.as_posix(), *ends, _normalised(path.stem)]:
            if key in self._by_image:
                return np.array(self._by_image[key], np.float32).reshape(-1, 5)
        return None

    def _read(self) -> tuple[list[dict], dict]:
        """Entries with a box each, and the file names of the images by id."""
        try:
            content = json.loads(self.path.read_text())
        except OSError as error:
            raise self._error(error.strerror or str(error)) from None
        except ValueError as error:  # of JSON, or of its encoding
            raise self._error(f"not JSON: {error}") from None
        if isinstance(content, list):
            return content, {}
        try:
            names = {image["id"]: image["file_name"] for image in content["images"]}
            return list(content["annotations"]), names
        except (KeyError, TypeError):
            raise self._error("neither a list of detections nor images with annotations") from None

    def _error(self, message: str) -> UserError:
        return UserError(f"boxes {self.path}: {message}")


def _normalised(key: str) -> str:
    """A path with plain slashes, or a number without leading zeros."""
    return str(int(key)) if key.isdecimal() else Path(key).as_posix()
