"""From a name to a predictor: `mmseg_tome.load`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from mmseg_tome.checkpoints import convert
from mmseg_tome.checkpoints.config_file import make_config_text
from mmseg_tome.checkpoints.loading import load_from_local
from mmseg_tome.checkpoints.reading import HUB_NAME, read_source
from mmseg_tome.checkpoints.writing import write
from mmseg_tome.config import (
    OURS,
    check_checkpoint,
    choose_device,
    is_pose,
    read_config,
)
from mmseg_tome.config_datasets import with_one_test_dataset
from mmseg_tome.config_names import with_public_weights
from mmseg_tome.errors import UserError
from mmseg_tome.files import CONFIGS
from mmseg_tome.nets.errors import ModelInputError
from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.predict import predictor_of
from mmseg_tome.predict.inputs import (
    Item,
    Reader,
    Source,
    UnreadableError,
    batches,
    find_sources,
)
from mmseg_tome.predict.results import Prediction
from mmseg_tome.predict.zoo import find_model
from mmseg_tome.runtime.acceleration import accelerate
from mmseg_tome.runtime.merging_switch import set_merging

Picture = str | Path | Image.Image | np.ndarray
NO_MERGING = "none"


def load(
    name: str | Path,
    weights: str | Path | None = None,
    preset: str | None = None,
    device: str | None = None,
) -> Predictor:
    """Load a segmentation or pose model, ready for images.

        predictor = mmseg_tome.load("segformerpp_fast_cityscapes")
        result = predictor.predict("street.jpg")
        result.draw().save("overlay.png")

    Args:
        name: A config, as path or as one of ours is called (`segformerpp_fast_cityscapes`); a name
            of docs/zoo.md; or a SegFormer checkpoint that needs no config: a Hugging Face folder or
            name (`nvidia/segformer-b0-finetuned-ade-512-512`), or a `.pth` or `.safetensors` file
            of any format that tools/convert_checkpoint.py reads, such as NVlabs'.
        weights: Path or address of a checkpoint for a config; None for the published one.
        preset: What merges in place of what the config says: `hq`, `fast`, `n2d`, ..., or `none`.
        device: cpu, cuda or cuda:N; a GPU by default, where there is one.

    Returns:
        The predictor. On a GPU its network runs by CUDA graphs.

    Raises:
        UserError: There is no such name or device, the config has no published weights, the preset
            is none, or a package is missing.
        CheckpointError: The weights cannot be had, read, or do not fit; if they cannot be
            downloaded, the message says where to put the file.
    """
    if not isinstance(name, (str, Path)):
        raise UserError(f"load takes the name or path of a config or checkpoint, not {name!r}")
    device = choose_device(device)
    if _is_checkpoint(name):
        if weights is not None:
            raise UserError(f"{name} is a checkpoint: weights= goes with a config")
        with TemporaryDirectory() as folder:
            config, checkpoint = _convert(str(name), Path(folder))
            return Predictor(config, checkpoint, preset, device)
    config, published = find_model(name)
    return Predictor(config, weights or published, preset, device)


def _is_checkpoint(name: str | Path) -> bool:
    """Whether a name is that of a checkpoint, in a file, a folder or on the Hugging Face hub."""
    path = Path(name)
    if path.suffix in (".pth", ".pt", ".bin", ".safetensors") or (path / "config.json").is_file():
        return True
    if path.exists() or not HUB_NAME.fullmatch(str(name)):
        return False
    return path.suffix != ".py" and not (CONFIGS / path.parent).is_dir()


def _convert(name: str, folder: Path) -> tuple[Path, str]:
    """Convert a checkpoint to a config and a file of ours, in a folder."""
    checkpoint = convert(read_source(name, load_from_local))
    config, weights = folder / f"{Path(name).name}.py", folder / f"{Path(name).name}.pth"
    config.write_text(make_config_text(checkpoint, weights, config, CONFIGS), encoding="utf-8")
    write(checkpoint, weights)
    return config, str(weights)


@dataclass(frozen=True, eq=False)
class Result:
    """What was predicted for one image.

    Attributes:
        labels: Segmentation: the class of each pixel, `[H, W]` uint8 (uint16 of more than 256
            classes); None for pose.
        instances: Pose: for each person `bbox` [x, y, w, h], `bbox_score`, `keypoints` [[x, y],
            ...] in pixels of the image, `keypoint_scores`; empty for segmentation.
        shares: Segmentation: share of the image's pixels of each class in it, the largest first.
        names: Of the classes, or of the keypoints.
        palette: Their colours, `[N, 3]` uint8, RGB.
        milliseconds: For the image, without reading and painting it.
    """

    labels: np.ndarray | None
    instances: list[dict]
    shares: dict[str, float]
    names: list[str]
    palette: np.ndarray
    milliseconds: float
    overlay: np.ndarray

    def draw(self) -> Image.Image:
        """The image with the prediction painted over it."""
        return Image.fromarray(np.ascontiguousarray(self.overlay[..., ::-1]))

    def save(self, path: str | Path) -> None:
        """Write what `draw` gives to a file, of the kind that its ending says."""
        self.draw().save(path)


class Predictor:
    """A model of either task that runs on images as they come.

    Attributes:
        task: "segmentation" or "pose".
        names: Of the classes, or of the keypoints.
        model: mmseg's or mmpose's model, in eval mode, with its config as `model.cfg`.
    """

    def __init__(
        self,
        config: str | Path,
        weights: str | Path | None,
        preset: str | None,
        device: str,
        cfg_options: dict | None = None,
    ):
        args = dict(config=str(config), cfg_options=cfg_options, trust_checkpoint=False)
        cfg = read_config(Namespace(**args))
        if preset is not None:
            backbone = cfg.model.get("backbone") or {}
            if not str(backbone.get("type")).startswith(OURS):
                raise UserError(f"{config} has no backbone that merges: preset={preset!r}")
            backbone.tome_cfg = None if preset == NO_MERGING else preset
        weights = weights or cfg.get("load_from")
        if weights is None:
            raise UserError(
                f"no weights are published for {Path(config).stem}: name a checkpoint, "
                f"weights='my.pth'{with_public_weights(str(config))}"
            )
        check_checkpoint(str(weights))
        cfg = with_one_test_dataset(cfg)
        self.task = "pose" if is_pose(cfg) else "segmentation"
        self._predictor = predictor_of(cfg)(cfg, str(weights), device)
        self._reader = Reader(cfg)
        self.model = self._predictor.model
        if device != "cpu":
            accelerate(self.model)
        meta = self._predictor.meta
        self.names = meta["classes" if self.task == "segmentation" else "keypoint_names"]
        self.palette = np.array(meta["palette"], np.uint8)

    def set_preset(self, preset: str) -> None:
        """Merge by another preset from now on, or by `none`; the weights stay.

        Raises:
            TomeConfigError: There is no such preset.
        """
        set_merging(self.model, None if preset == NO_MERGING else preset)

    def predict(
        self, images: Picture | Sequence[Picture], boxes: Sequence | None = None
    ) -> Result | list[Result]:
        """Predict one image, or several.

        Args:
            images: A path or http address, a PIL image, an array as OpenCV reads it (`[H, W, 3]`
                uint8, BGR; grey `[H, W]` is taken as infer takes grey files), or a list of these.
            boxes: Pose: of the persons in the image, `[N, 4]` of x, y, w, h in pixels; for a list
                of images one such array each. None takes each image for one person.

        Returns:
            The result; for a list a list, in its order.

        Raises:
            UserError: A path is not one image, an array is not uint8, or boxes do not fit.
            UnreadableError: A file is damaged, or an address cannot be opened.
            ModelInputError: An image is too small for the network, or has other channels.
        """
        many = isinstance(images, Sequence) and not isinstance(images, str)
        items = [self._read(image, i) for i, image in enumerate(images if many else [images])]
        if boxes is not None:
            self._check(boxes := list(boxes) if many else [boxes], len(items))
        results = []
        for number, batch in enumerate(batches(items, self._predictor.batch_size)):
            if self.task == "pose":  # an image at a time
                self._predictor.boxes = None if boxes is None else _Boxes(boxes[number])
            results += map(self._result, self._predictor.predict(batch))
        return results if many else results[0]

    def _read(self, image: Picture, number: int) -> Item:
        if isinstance(image, (str, Path)):
            if Path(image).is_dir():
                raise UserError(f"{image} is a folder: give its images one by one, or as a list")
            source, *more = find_sources([str(image)])
            if more:
                raise UserError(f"{image} names {len(more) + 1} inputs: give images one by one")
            if source.is_video:
                raise UserError(f"{source.path} is a video or stream: tools/infer.py runs those")
            try:
                return next(self._reader.read(source))
            except UnreadableError as error:
                raise UnreadableError(f"{source.path}: {error}") from None
        if isinstance(image, Image.Image):
            image = np.asarray(image.convert("RGB"))[..., ::-1]
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            raise UserError(
                f"image {number} must be a path, a PIL image or an array [H, W, 3], got "
                f"{f'an array {list(image.shape)}' if hasattr(image, 'shape') else type(image)}"
            )
        if image.dtype != np.uint8:
            raise UserError(f"image {number} must be uint8 of 0 to 255, got {image.dtype}")
        image = _with_channels(image, image_channels(self.model), number)
        return Item(
            Source(Path(f"image_{number}"), f"{number}", False), np.ascontiguousarray(image)
        )

    def _check(self, boxes: list, number: int) -> None:
        if self.task != "pose":
            raise UserError("boxes are for pose, the model is one of segmentation")
        if len(boxes) != number:
            raise UserError(f"{number} images need as many lists of boxes, got {len(boxes)}")
        for each in boxes:
            if np.ndim(each) != 2 or np.shape(each)[1] not in (4, 5):
                raise UserError(f"boxes of an image must be [N, 4], got {list(np.shape(each))}")

    def _result(self, prediction: Prediction) -> Result:
        result = prediction.result
        return Result(
            labels=prediction.labels,
            instances=result.get("instances", []),
            shares={name: float(share) for name, share in result.get("classes", {}).items()},
            names=self.names,
            palette=self.palette,
            milliseconds=result["ms"],
            overlay=prediction.overlay,
        )


def _with_channels(image: np.ndarray, channels: int, number: int) -> np.ndarray:
    """An array with as many channels as the model takes; grey becomes colour, as in files."""
    found = image.shape[2] if image.ndim == 3 else 1
    if found == channels:
        return image
    if (found, channels) == (1, 3):
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    takes = {1: "[H, W]", 3: "[H, W, 3], or grey [H, W]"}.get(channels, f"[H, W, {channels}]")
    raise ModelInputError(f"image {number} is {list(image.shape)}, the model takes {takes}")


class _Boxes:
    """The boxes of one image, as `PosePredictor` asks for them."""

    def __init__(self, boxes: Sequence):
        boxes = np.asarray(boxes, np.float32)
        scores = np.ones((len(boxes), 1), np.float32) if boxes.shape[1] == 4 else boxes[:, 4:]
        self._boxes = np.concatenate([boxes[:, :4], scores], axis=1)

    def of(self, path: Path) -> np.ndarray:
        return self._boxes
