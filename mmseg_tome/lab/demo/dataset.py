"""A seeded data set of rendered streets, in the layouts of Cityscapes and of COCO keypoints.

The same seed gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from mmseg_tome.errors import UserError
from mmseg_tome.files import progress_of
from mmseg_tome.lab.demo.figure import KEYPOINTS, SKELETON
from mmseg_tome.lab.demo.scene import Scene, render_scene

CITIES = {"train": "arbostadt", "val": "querfurt"}
# Cityscapes' label id of each train id; void (255) becomes 0, 'unlabeled'.
LABEL_IDS = np.zeros(256, np.uint8)
LABEL_IDS[:19] = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CATEGORY = {"id": 1, "name": "person", "supercategory": "person", "keypoints": KEYPOINTS,
            "skeleton": SKELETON}  # fmt: skip


class FolderExistsError(UserError, FileExistsError):
    """The data set would overwrite a folder."""


def scene_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The generator of one scene: render it again at any other height."""
    return np.random.default_rng([seed, list(CITIES).index(split), number])


def image_file(root: Path, split: str, number: int) -> Path:
    city = CITIES[split]
    return root / "leftImg8bit" / split / city / f"{city}_{number:06d}_000019_leftImg8bit.png"


def label_file(image: Path, kind: str = "labelTrainIds") -> Path:
    city, split, root = image.parent.name, image.parents[1].name, image.parents[3]
    return root / "gtFine" / split / city / image.name.replace("leftImg8bit", f"gtFine_{kind}")


def write_dataset(
    root: str | Path, num_train: int, num_val: int, height: int, seed: int = 0
) -> Path:
    """Render into ``root``: ``leftImg8bit/``, ``gtFine/``, ``annotations/``.

    The folder appears only when it is complete.

    Raises:
        FolderExistsError: ``root`` exists already.
    """
    root = Path(root)
    with _new_folder(root) as folder:
        (folder / "annotations").mkdir()
        with progress_of("rendering", num_train + num_val, every=40) as advance:
            for split, total in zip(CITIES, (num_train, num_val), strict=True):
                found = {"images": [], "annotations": [], "categories": [CATEGORY]}
                for number in range(total):
                    scene = render_scene(scene_rng(seed, split, number), height)
                    _write_scene(folder, split, number, scene)
                    _annotate(found, split, number, scene)
                    advance("")
                file = folder / "annotations" / f"person_keypoints_{split}.json"
                file.write_text(json.dumps(found))
    return root


def _write_scene(root: Path, split: str, number: int, scene: Scene) -> None:
    image = image_file(root, split, number)
    files = {
        image: scene.image[..., ::-1],
        label_file(image): scene.labels,
        label_file(image, "labelIds"): LABEL_IDS[scene.labels],
    }
    for path, pixels in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not encoded:
            raise OSError(f"cannot encode {path.name} as PNG")
        path.write_bytes(data)


def _annotate(found: dict[str, list], split: str, number: int, scene: Scene) -> None:
    """Add a scene to its split's images and annotations, as COCO writes them."""
    height, width = scene.labels.shape
    name = str(image_file(Path(), split, number).relative_to(f"leftImg8bit/{split}"))
    found["images"].append({"id": number, "file_name": name, "width": width, "height": height})
    for person in scene.persons:
        points = [(round(x, 1), round(y, 1), int(v)) for x, y, v in person.keypoints.tolist()]
        found["annotations"].append(
            {
                "id": len(found["annotations"]) + 1,
                "image_id": number,
                "category_id": CATEGORY["id"],
                "bbox": person.box,
                "area": person.area,
                "iscrowd": 0,
                "num_keypoints": sum(v > 0 for *_, v in points),
                "keypoints": [value for point in points for value in point],
            }
        )


@contextmanager
def _new_folder(root: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``root`` once it is complete and else disappears."""
    if root.exists():
        raise FolderExistsError(f"{root} exists already: remove it or name another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)  # mkdtemp's folder is private
        unfinished.rename(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
