"""The user's images: files, folders and videos, all found first, each read when it is its turn."""

import functools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from PIL import Image, UnidentifiedImageError

from mmseg_tome.config import is_pose
from mmseg_tome.config_datasets import find_test_pipeline
from mmseg_tome.errors import UserError
from mmseg_tome.nets.errors import ModelInputError

# fmt: off
IMAGES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".bmp", ".dib", ".webp", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
})
VIDEOS = frozenset({
    ".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv",
})
# fmt: on


class UnreadableError(UserError):
    """An image or video that exists but cannot be read; the message does not name it."""


@dataclass(frozen=True)
class Source:
    """An image or video file.

    Attributes:
        path: Where it is.
        name: Relative path without suffix for what is made of it; no two sources share one.
        is_video: Whether it holds many images.
    """

    path: Path
    name: str
    is_video: bool


@dataclass(frozen=True, eq=False)
class Item:
    """One image to predict.

    Attributes:
        source: The file that it is from.
        image: As the config reads it: `[H, W, 3]` uint8, BGR, or with other channels, as `[H, W]`,
            or of another type.
        frame: Number of the frame, from 0; None for an image file.
    """

    source: Source
    image: np.ndarray
    frame: int | None = None

    @functools.cached_property
    def picture(self) -> np.ndarray:
        """The image to be looked at, `[H, W, 3]` uint8, BGR."""
        return to_picture(self.image)


def find_sources(inputs: Sequence[str], results: Sequence[Path] = ()) -> list[Source]:
    """List the files that `inputs` name, in that order, each once.

    A folder stands for all images and videos in it and in its subfolders, sorted; other and hidden
    files are passed over. Names keep the path from the folder's own name on: `photos/a/1.jpg` of
    `photos` is `photos/a/1`.

    Args:
        inputs: Files and folders.
        results: Folders of results: what is in them, maybe from an earlier run, is no input.

    Raises:
        UserError: Inputs are missing, neither image nor video, or folders without either.
    """

    def is_result(file: Path) -> bool:
        return any(file.resolve().is_relative_to(folder.resolve()) for folder in results)

    found: dict[Path, tuple[Path, Path]] = {}  # by resolved path: the path as given, and the name
    problems = []
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_dir():
            files = [file for file in _files_below(path) if not is_result(file)]
            if not files:
                problems.append(f"{text} holds no image or video")
            for file in files:
                name = path.resolve().name / file.relative_to(path)
                found.setdefault(file.resolve(), (file, name))
        elif not path.exists():
            problems.append(f"{text} does not exist")
        elif path.suffix.lower() not in IMAGES | VIDEOS:
            problems.append(f"{text} is of no known image or video type")
        elif is_result(path):
            problems.append(f"{text} lies where the results go")
        else:
            found.setdefault(path.resolve(), (path, Path(path.name)))
    if problems:
        raise UserError("; ".join(problems))
    names = _unique(name.with_suffix("").as_posix() for _, name in found.values())
    return [
        Source(file, name, file.suffix.lower() in VIDEOS)
        for (file, _), name in zip(found.values(), names, strict=True)
    ]


class Reader:
    """Reads images as the test pipeline of a config does, and the frames of videos.

    Colours, bit depth, transparency and EXIF orientation are thus those that the model knows.

    Raises:
        UserError: The config has no test pipeline, or nothing in it reads images.
    """

    def __init__(self, cfg: Config):
        wanted = "LoadImage" if is_pose(cfg) else "LoadImageFromFile"
        steps = find_test_pipeline(cfg)
        loaders = [step for step in steps if step["type"].rpartition(".")[2] == wanted]
        if not loaders:
            raise UserError(f"the config needs {wanted} in test_dataloader.dataset.pipeline")
        # Later steps of the pipeline turn to float what has to be.
        other = ("type", "_scope_", "to_float32", "ignore_empty")
        options = {key: value for key, value in loaders[0].items() if key not in other}
        self._load = LoadImageFromFile(**options)

    def read(self, source: Source) -> Iterator[Item]:
        """The images of a source, one after the other.

        Raises:
            UnreadableError: The file is damaged, or this installation cannot decode it. A video
                may raise it after its last good frame.
        """
        if source.is_video:
            for number, image in enumerate(_read_video(source.path)):
                yield Item(source, image, number)
        else:
            yield Item(source, self._read_image(source.path))

    def _read_image(self, path: Path) -> np.ndarray:
        check_complete(path)
        try:
            image = self._load(dict(img_path=str(path)))["img"]
        except (OSError, ValueError, AssertionError, cv2.error):  # each decoder has its own
            raise UnreadableError("it is not an image, or of an unsupported kind") from None
        return image


def check_channels(item: Item, channels: int) -> None:
    """Raise ModelInputError unless a model that takes images of so many channels can run on one."""
    image = item.image
    found = image.shape[2] if image.ndim == 3 else 1
    if found != channels:
        read = f"{image.dtype} {list(image.shape)}"
        raise ModelInputError(
            f"the config reads it as {read}, the model takes images of {channels} "
            f"channel{'s' * (channels > 1)}"
        )


def count(source: Source) -> int:
    """Number of images in a source; of a video the number that its header says, at least 1."""
    if not source.is_video:
        return 1
    return max(1, int(_of_video(source.path, cv2.CAP_PROP_FRAME_COUNT)))


def frame_rate(path: Path) -> float:
    """Frames per second of a video; 25 where it does not say."""
    rate = _of_video(path, cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else 25.0


def _of_video(path: Path, what: int) -> float:
    """A property of a video that OpenCV knows by a number."""
    video = cv2.VideoCapture(str(path))
    found = video.get(what)
    video.release()
    return found


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Group successive items of one image size, up to `size` of them."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == size or item.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _files_below(folder: Path) -> list[Path]:
    def is_wanted(file: Path) -> bool:
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        return not hidden and file.suffix.lower() in IMAGES | VIDEOS and file.is_file()

    return sorted(file for file in folder.rglob("*") if is_wanted(file))


def _unique(names: Iterable[str]) -> list[str]:
    """Number what occurs again: `a`, `a`, `A` become `a`, `a_2`, `A_3`, on any file system."""
    taken: set[str] = set()
    result = []
    for name in names:
        free, number = name, 1
        while free.lower() in taken:
            number += 1
            free = f"{name}_{number}"
        taken.add(free.lower())
        result.append(free)
    return result


def check_complete(path: Path) -> None:
    """Refuse a truncated file: OpenCV paints the missing part grey and says nothing.

    Raises:
        UnreadableError: It is one, or cannot be read at all.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # nothing that Pillow knows, or of a size that it does not trust: as OpenCV says
    except Exception as error:  # of many kinds: decoders trip over damage wherever it is
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableError(f"it cannot be read: {reason}") from None


def _read_video(path: Path) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    announced = video.get(cv2.CAP_PROP_FRAME_COUNT)
    frames = 0
    try:
        while True:
            good, image = video.read()
            if not good:
                break
            frames += 1
            yield image
    finally:
        video.release()
    if not frames:
        raise UnreadableError("it is not a video, or of an unsupported kind")
    if frames < 0.9 * announced:  # some containers only estimate the number
        raise UnreadableError(f"it ends after {frames} of {int(announced)} frames")


def to_picture(image: np.ndarray) -> np.ndarray:
    """An image as 8-bit colours; one that is so already comes back itself.

    Of more than three channels the first three are shown, of two their mean. Values that are no
    bytes are stretched between the smallest and the largest.

    Args:
        image: `[H, W]` or `[H, W, C]` of any type, BGR where C is 3.

    Returns:
        `[H, W, 3]` uint8.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8:
        finite = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(finite.min()), float(finite.max())
        image = ((finite - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8)
    channels = image.shape[2]
    if channels == 3:
        return image
    if channels > 3:
        return np.ascontiguousarray(image[..., :3])
    grey = image.mean(axis=2, keepdims=True).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)
