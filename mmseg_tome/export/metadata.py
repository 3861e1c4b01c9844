"""Metadata of an exported file: all that is needed to run it, as named JSON strings in it."""

import json
from dataclasses import dataclass, field, fields

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmseg_tome import __version__
from mmseg_tome.config import is_pose
from mmseg_tome.errors import UserError
from mmseg_tome.nets.segformer import image_channels

INPUT, OUTPUT = "images", {"segmentation": "logits", "pose": "heatmaps"}
LATER = {"channels", "min_side", "threshold"}
"""Fields that files of earlier versions do not have."""


@dataclass(frozen=True)
class Metadata:
    """All fields are JSON in the file, under their own names.

    Attributes:
        task: `segmentation` or `pose`.
        input_size: `[H, W]` of the images, in pixels.
        mean: To subtract from each channel of an image in 0..255.
        std: To divide each channel by, after that.
        channel_order: `RGB` or `BGR`: that of the channels of input, `mean` and `std`; `as read`
            where they are not three.
        pad_value: What a smaller image is filled up with, right and below, after normalisation.
        output: What comes out: `logits` `[B, classes, H / 4, W / 4]`, to be resized bilinearly
            before the largest is taken, or `heatmaps` `[B, keypoints, H / 4, W / 4]`.
        names: Of the classes or keypoints, in the order of the output's channels. Logits of a
            single channel tell the last class from what is before it, see `threshold`.
        preset: The backbone's `tome_cfg`: a preset's name, the list of stages, `none` or
            `downsample`.
        version: Of mmseg_tome.
        config: Name of the config file.
        dynamic_batch: Whether any number of images may go in; otherwise one.
        precision: `float32`, `float16` or `int8`.
        dataset_meta: Palette; for pose also skeleton and mirrored keypoints.
        channels: Of an image.
        min_side: Of a file that takes images of any size: the smallest height and width. 0 if it
            takes those of `input_size` alone.
        threshold: Of logits in a single channel: its class is where their sigmoid is above this.
        inference: The parts of the mm config that `tools/infer.py` runs the file by.
    """

    task: str
    input_size: list[int]
    mean: list[float]
    std: list[float]
    channel_order: str
    output: str
    names: list[str]
    preset: str | list
    pad_value: float = 0.0
    version: str = __version__
    config: str = ""
    dynamic_batch: bool = False
    precision: str = "float32"
    channels: int = 3
    min_side: int = 0
    threshold: float | None = None
    dataset_meta: dict = field(default_factory=dict)
    inference: dict = field(default_factory=dict)

    def to_strings(self) -> dict[str, str]:
        """The fields as JSON, by name."""
        return {f.name: json.dumps(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_strings(cls, strings: dict[str, str], path: str) -> "Metadata":
        """Read what `to_strings` gave; other names are passed over.

        Fields that earlier versions did not write have their defaults.

        Raises:
            UserError: A field is missing or cannot be read: not a file of `tools/export.py`.
        """
        known = {f.name for f in fields(cls)}
        known -= {name for name in LATER if not strings.get(name)}
        try:
            return cls(**{name: json.loads(strings[name]) for name in known})
        except (KeyError, ValueError) as error:
            problem = f"{path} was not written by tools/export.py: its metadata has no readable "
            raise UserError(problem + str(error).split(":")[0]) from None

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """An image as the network takes it, for running a file by this metadata alone.

        Resized to fit into the input with its aspect ratio, normalised, filled up.

        Args:
            image: `[h, w, C]`, or `[h, w]` for one channel, as the config reads it: of three
                channels BGR.

        Returns:
            `[C, H, W]` float32.

        Raises:
            ValueError: The image has other channels.
        """
        image = image if image.ndim == 3 else image[..., None]
        if image.shape[2] != self.channels:
            raise ValueError(f"an image of {self.channels} channels is expected: {image.shape}")
        height, width = self.input_size
        scale = min(height / image.shape[0], width / image.shape[1])
        fitted = [max(1, round(side * scale)) for side in image.shape[:2]]
        image = cv2.resize(image, fitted[::-1], interpolation=cv2.INTER_LINEAR)
        image = image if image.ndim == 3 else image[..., None]  # OpenCV drops a single channel
        if self.channel_order == "RGB":
            image = image[..., ::-1]
        image = (image.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)
        filled = np.full((height, width, self.channels), self.pad_value, np.float32)
        filled[: fitted[0], : fitted[1]] = image
        return np.ascontiguousarray(filled.transpose(2, 0, 1))


def describe(cfg: Config, model: nn.Module, size: tuple[int, int], **more) -> Metadata:
    """The metadata of a config's model for images of `size`, (H, W).

    Args:
        cfg: The config.
        model: Its model, with `dataset_meta`.
        size: (H, W) in pixels.
        more: Further fields of `Metadata`.

    Raises:
        UserError: The config normalises other channels than the model takes.
    """
    channels = image_channels(model)
    processor = cfg.model.get("data_preprocessor") or {}
    swaps = processor.get("bgr_to_rgb") or processor.get("rgb_to_bgr")
    backbone = cfg.model.backbone
    unmerged = "downsample" if backbone.get("down_sample") else "none"
    data = plain(model.dataset_meta)
    if is_pose(cfg):
        names = [data["keypoint_id2name"][str(i)] for i in range(len(data["keypoint_id2name"]))]
    else:
        names = data["classes"]
    mean, std = normalisation(cfg, channels)
    return Metadata(
        task="pose" if is_pose(cfg) else "segmentation",
        input_size=list(size),
        mean=mean,
        std=std,
        channel_order="as read" if channels != 3 else "RGB" if swaps else "BGR",
        output=OUTPUT["pose" if is_pose(cfg) else "segmentation"],
        names=names,
        preset=plain(backbone.get("tome_cfg") or unmerged),
        pad_value=float(processor.get("pad_val", 0)),
        channels=channels,
        threshold=threshold_of(model),
        dataset_meta=data,
        inference=inference_config(cfg, None if more.get("min_side") else size),
        **more,
    )


NEUTRAL = (("mean", 0.0), ("std", 1.0))
"""What normalises nothing."""


def normalisation(cfg: Config, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each of a config's `channels`.

    Raises:
        UserError: The config normalises other channels than the model takes.
    """
    processor = cfg.model.get("data_preprocessor") or {}
    mean, std = (list(processor.get(name) or [value]) for name, value in NEUTRAL)
    # One value is for all channels; of four the official mmseg alone takes as many.
    mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    if not len(mean) == len(std) == channels:
        raise UserError(
            f"the config normalises {len(mean)} channels, its model takes images of {channels}"
        )
    return mean, std


def threshold_of(model: nn.Module) -> float | None:
    """Probability above which a segmentor's only channel says yes; None if it has several."""
    head = getattr(model, "decode_head", None)
    return head.threshold if getattr(head, "out_channels", None) == 1 else None


def inference_config(cfg: Config, size: tuple[int, int] | None) -> dict:
    """The parts of a config that pre- and post-process, with images brought to `size`, (H, W).

    A model that is tested on sliding windows of just this size goes on so; any other gets the whole
    image, resized to fit and filled up. Without a size all is as in the config.
    """
    model = plain(cfg.model)
    kept = ("type", "data_preprocessor", "test_cfg")
    part = {key: model[key] for key in kept if key in model}
    loader = plain(cfg.test_dataloader)
    dataset = {key: loader["dataset"].get(key) for key in ("type", "pipeline")}
    if is_pose(cfg):
        head = model["head"]
        part["head"] = {key: head[key] for key in ("out_channels", "decoder")}
    else:
        head = model["decode_head"]
        kept = ("num_classes", "out_channels", "threshold", "align_corners")
        part["decode_head"] = {key: head[key] for key in kept if key in head}
        test_cfg = part.get("test_cfg") or {}
        crop = test_cfg.get("crop_size") if test_cfg.get("mode") == "slide" else None
        if size is not None and (crop is None or tuple(crop) != tuple(size)):
            part["test_cfg"] = dict(mode="whole")
            dataset["pipeline"] = _fitting(dataset["pipeline"], size)
        if size is not None:
            part["data_preprocessor"]["test_cfg"] = dict(size=list(size))
    parts = dict(
        default_scope=cfg.get("default_scope", "mmseg"),
        model=part,
        test_dataloader=dict(batch_size=loader.get("batch_size", 1), dataset=dataset),
    )
    if is_pose(cfg):  # mmpose looks there for the keypoints before it gets those of the file
        parts["train_dataloader"] = dict(dataset=dict(type=dataset["type"]))
    return parts


def _fitting(pipeline: list[dict], size: tuple[int, int]) -> list[dict]:
    """A test pipeline whose images are resized to fit into `size`."""
    resize = dict(type="Resize", scale=[size[1], size[0]], keep_ratio=True)
    steps = [step for step in pipeline if step["type"].split(".")[-1] != "Resize"]
    return [steps[0], resize, *steps[1:]]


def plain(node):
    """Configs and data set descriptions as JSON knows them: tuples, arrays, classes by name."""
    if isinstance(node, dict):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple, set)):
        return [plain(value) for value in node]
    if isinstance(node, (np.ndarray, np.generic, torch.Tensor)):
        return node.tolist()
    return node.__name__ if isinstance(node, type) else node
