"""The user's images, each read when it is its turn."""

import functools
import io
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmcv.image.io import imread_flags
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from PIL import Image, UnidentifiedImageError

from mmseg_tome.config import is_pose
from mmseg_tome.config_datasets import find_test_pipeline
from mmseg_tome.errors import UserError
from mmseg_tome.nets.errors import ModelInputError
from mmseg_tome.predict.sources import (
    IMAGES,
    VIDEOS,
    Source,
    UnreadableError,
    download,
    find_sources,
)
from mmseg_tome.predict.streams import read_stream

__all__ = ["IMAGES", "VIDEOS", "Item", "Reader", "Source", "UnreadableError", "find_sources"]


@dataclass(frozen=True, eq=False)
class Item:
    """One image to predict.

    Attributes:
        source: The file that it is from.
        image: As the config reads it: `[H, W, 3]` uint8, BGR, or with other channels, as `[H, W]`,
            or of another type.
        frame: Number of the frame, or of a file's image, from 0; None for the only one.
        rate: Frames per second; None where there are none, or the file says.
    """

    source: Source
    image: np.ndarray
    frame: int | None = None
    rate: float | None = None

    @functools.cached_property
    def picture(self) -> np.ndarray:
        """The image to be looked at, `[H, W, 3]` uint8, BGR."""
        return to_picture(self.image)


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

    def read(
        self,
        source: Source,
        say: Callable[[str], None] = lambda line: None,
        stopped: threading.Event | None = None,
    ) -> Iterator[Item]:
        """The images of a source, one after the other.

        Args:
            source: Of `find_sources`.
            say: Is told what happens to a stream.
            stopped: Ends a stream; None for one that ends by itself.

        Raises:
            UnreadableError: The source is damaged, or this installation cannot decode it. A video
                may raise it after its last good frame.
        """
        if source.is_live:
            frames = read_stream(source.address, say, stopped or threading.Event())
            for number, image, rate in frames:
                yield Item(source, image, number, rate)
        elif source.is_video:
            for number, image in enumerate(_read_video(source.address or source.path)):
                yield Item(source, image, number)
        elif source.images > 1:
            yield from self._read_several(source)
        elif isinstance(source.path, Path):
            yield Item(source, self._read_image(source.path))
        else:
            content = source.content or download(source.address)
            check_complete(io.BytesIO(content))
            yield Item(source, self._decode(content))

    def _read_image(self, path: Path) -> np.ndarray:
        check_complete(path)
        with _decoding():
            return self._load(dict(img_path=str(path)))["img"]

    def _decode(self, content: bytes) -> np.ndarray:
        """An image file's content, as `_load` decodes it."""
        with _decoding():
            options = dict(flag=self._load.color_type, backend=self._load.imdecode_backend)
            image = mmcv.imfrombytes(content, **options)
            if image is None:
                raise ValueError
        return image

    def _read_several(self, source: Source) -> Iterator[Item]:
        """The frames of an animation, or the pages of a TIFF."""
        if source.content is None:
            check_complete(source.path)
        content = source.content or source.path.read_bytes()
        with Image.open(io.BytesIO(content)) as animation:
            for number in range(source.images):
                with _decoding(f"image {number + 1} of {source.images} cannot be read"):
                    if source.is_paged:
                        image, rate = self._decode_page(content, number), None
                    else:
                        animation.seek(number)
                        image = self._decode(_png(animation))
                        rate = 1000 / (animation.info.get("duration") or 100)  # as browsers do
                yield Item(source, image, number, rate)

    def _decode_page(self, content: bytes, number: int) -> np.ndarray:
        flag, encoded = imread_flags[self._load.color_type], np.frombuffer(content, np.uint8)
        return cv2.imdecodemulti(encoded, flag, range=(number, number + 1))[1][0]


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


def count(source: Source) -> int | None:
    """Number of images in a source; of a video the number that its header says, at least 1."""
    if source.is_live:
        return None
    if not source.is_video:
        return source.images
    return max(1, int(_of_video(source.address or source.path, cv2.CAP_PROP_FRAME_COUNT)))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "PNG", compress_level=0)
    return stream.getvalue()


@contextmanager
def _decoding(problem: str = "it is not an image, or of an unsupported kind") -> Iterator[None]:
    """Say `problem` of whatever a decoder says."""
    try:
        yield
    except (OSError, ValueError, AssertionError, EOFError, LookupError, SyntaxError, cv2.error):
        raise UnreadableError(problem) from None


def frame_rate(path: Path | str) -> float:
    """Frames per second of a video; 25 where it does not say."""
    rate = _of_video(path, cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else 25.0


def _of_video(path: Path | str, what: int) -> float:
    """A property of a video that OpenCV knows by a number."""
    video = cv2.VideoCapture(str(path))
    found = video.get(what)
    video.release()
    return found


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Group successive items of one image size, up to `size` of them."""
    batch: list[Item] = []
    for item in items:
        if batch and item.image.shape != batch[0].image.shape:
            yield batch
            batch = []
        batch.append(item)
        if len(batch) == size:  # at once: the next frame of a stream is not there yet
            yield batch
            batch = []
    if batch:
        yield batch


def check_complete(path: Path | io.BytesIO) -> None:
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


def _read_video(path: Path | str) -> Iterator[np.ndarray]:
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
