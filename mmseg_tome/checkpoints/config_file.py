"""A config that tests, runs and trains a converted checkpoint, and the data sets that ours know."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from mmseg_tome.checkpoints.architecture import VARIANTS, Architecture
from mmseg_tome.checkpoints.checkpoint import IMAGENET_MEAN, IMAGENET_STD, Checkpoint
from mmseg_tome.checkpoints.tensors import DEFAULT
from mmseg_tome.errors import ConversionError


class KnownDataset(NamedTuple):
    """A data set.

    Attributes:
        name: As our configs' file names spell it.
        count: Number of its classes, or of its keypoints.
        first: The first classes; later ones are spelled differently by different code bases.
    """

    name: str
    count: int
    first: tuple[str, ...] = ()


SEGMENTATION = (
    KnownDataset("cityscapes", 19, ("road", "sidewalk", "building", "wall")),
    KnownDataset("ade20k", 150, ("wall", "building", "sky", "floor")),
    KnownDataset("camvid", 11, ("sky", "building", "pole", "road")),
)
POSE = (KnownDataset("coco", 17), KnownDataset("jbd", 20))


def recognise_classes(classes: Sequence[str] | None) -> str | None:
    """Name of the data set that has these classes, or None."""
    names = tuple(name.strip().lower() for name in classes or ())
    fitting = (k.name for k in SEGMENTATION if len(names) == k.count and names[:4] == k.first)
    return next(fitting, None)


def known_dataset(checkpoint: Checkpoint) -> str | None:
    """Name of the data set whose classes, or as many keypoints, a checkpoint predicts."""
    if checkpoint.task == "pose":
        return next((known.name for known in POSE if known.count == checkpoint.head.outputs), None)
    return recognise_classes(checkpoint.classes)


def check_count(name: str, number: int) -> None:
    """Raise ConversionError unless the data set `name` has `number` classes or keypoints."""
    for known in SEGMENTATION + POSE:
        if known.name == name and known.count != number:
            raise ConversionError(f"{name} has {known.count} classes, the checkpoint has {number}")


CHANNELS = 256
"""Channels of the head in our base configs."""

LINE = 100
"""Characters of a line."""

FALLBACK = "b0"
"""The variant whose config a backbone of another size is described by differences from."""


def make_config_text(
    checkpoint: Checkpoint,
    weights: Path,
    path: Path,
    configs: Path,
    dataset: str | None = None,
) -> str:
    """The text of a config.

    Args:
        checkpoint: What it is for.
        weights: The file that holds it.
        path: Where the config will be.
        configs: The folder `configs` of this package, which it inherits from.
        dataset: Name of the data set; by default recognised by the classes.

    Raises:
        ConversionError: There is no base to inherit from.
    """
    if checkpoint.head is None:
        raise ConversionError(
            "a backbone alone needs no config: name the file in any config's "
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        )
    colours = checkpoint.architecture.in_channels == 3
    if dataset is None and (colours or checkpoint.task == "pose"):
        dataset = known_dataset(checkpoint)
    if dataset and not colours:
        raise ConversionError(
            f"a config of {dataset} would read images of 3 channels, the model takes "
            f"{checkpoint.architecture.in_channels}"
        )
    if dataset:
        check_count(dataset, checkpoint.head.outputs)
    variant = checkpoint.architecture.variant or FALLBACK
    bases, variant = _bases(checkpoint.task, variant, dataset)
    for base in bases:
        if not (configs / base).is_file():
            raise ConversionError(f"there is no {configs / base} to inherit from")
    bases = [_relative(configs / base, path.parent) for base in bases]
    model = _model(checkpoint, variant)
    lines = [
        f"# {checkpoint.origin}, by tools/convert_checkpoint.py.",
        "# Base and checkpoint are named as seen from here: keep this file where it is. To merge",
        "# tokens: --cfg-options model.backbone.tome_cfg=fast",
        f"_base_ = {_text(bases if len(bases) > 1 else bases[0], before=9)}",
        f"model = {_text(model, before=8)}",
    ]
    if dataset is None:
        lines.append(_own_data(checkpoint))
    elif checkpoint.input_size:
        height, width = checkpoint.input_size
        lines.insert(
            1,
            f"# Elsewhere it is given images resized to {width}x{height}, here those of "
            f"{dataset}'s\n# own test: see test_pipeline.",
        )
    lines.append(f'load_from = "{{{{ fileDirname }}}}/{_relative(weights, path.parent)}"')
    return "\n".join(lines) + "\n"


def _bases(task: str, variant: str, dataset: str | None) -> tuple[list[str], str]:
    """Configs to inherit from, and the variant that they describe."""
    if task == "pose":
        if dataset is None:
            raise ConversionError(
                "a config can be made for the keypoints of COCO (17) and Jump-Broadcast (20) only"
            )
        variant = variant if variant in ("b0", "b5") else FALLBACK
    elif dataset is None:
        model = f"_base_/models/segformer_mit_{variant}.py"
        return [model, "_base_/default_hooks.py", "_base_/default_runtime.py"], variant
    if dataset == "camvid":
        variant = variant if variant in ("b0", "b1", "b2") else FALLBACK
        return [f"camvid/segformerpp_{variant}_none_camvid.py"], variant
    if variant == "b5":
        return [f"segformerpp_none_{dataset}.py"], variant
    return [f"{variant}/segformerpp_{variant}_none_{dataset}.py"], variant


def _model(checkpoint: Checkpoint, variant: str) -> dict:
    """What differs from the model of a variant's base config."""
    arch, head = checkpoint.architecture, checkpoint.head
    base = Architecture(3, *VARIANTS[variant])
    backbone = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(arch).items()
        if value != getattr(base, key)
    }
    backbone["init_cfg"] = None  # `load_from` has the weights
    if checkpoint.norm_eps != DEFAULT:
        backbone["norm_cfg"] = dict(type="LN", eps=checkpoint.norm_eps)
    if checkpoint.tome_cfg:
        backbone["tome_cfg"] = checkpoint.tome_cfg
    if checkpoint.down_sample:
        backbone["down_sample"] = True
    model = dict(backbone=backbone)
    if arch.in_channels != 3:
        model["data_preprocessor"] = _other_channels(checkpoint)
    elif (checkpoint.mean, checkpoint.std) != (IMAGENET_MEAN, IMAGENET_STD):
        model["data_preprocessor"] = dict(mean=list(checkpoint.mean), std=list(checkpoint.std))
    settings: dict = dict(channels=head.channels) if head.channels != CHANNELS else {}
    if arch.channels != base.channels:
        settings["in_channels"] = list(arch.channels)
    if checkpoint.task == "pose":
        model["head"] = settings
    else:
        settings["num_classes"] = head.outputs
        if head.linear:
            settings["type"] = "mmseg_tome.SegformerLinearHead"
        model["decode_head"] = settings
    return model


def _other_channels(checkpoint: Checkpoint) -> dict:
    """How images of other than three channels are normalised: as is known, otherwise not at all.

    One value that is for all channels is written once, which every mmengine takes.
    """
    mean, std = checkpoint.normalisation() or (None, None)
    if mean and len(set(mean)) == len(set(std)) == 1:
        mean, std = mean[:1], std[:1]
    return dict(mean=mean, std=std, bgr_to_rgb=False)


def _own_data(checkpoint: Checkpoint) -> str:
    """The test of a data set that no config here knows."""
    metainfo = dict(classes=list(checkpoint.classes or map(str, range(checkpoint.head.outputs))))
    if checkpoint.palette:
        metainfo["palette"] = [list(colour) for colour in checkpoint.palette]
    resize = "scale=(2048, 512), keep_ratio=True"
    if checkpoint.input_size:
        resize = f"scale={checkpoint.input_size[::-1]}, keep_ratio=False"
    channels = checkpoint.architecture.in_channels
    # Grey by OpenCV's own weights; four channels and more as they are in the file.
    loading = {1: ', color_type="grayscale"', 3: ""}.get(channels, ', color_type="unchanged"')
    return f"""\
# For a test put or link data/own/images/test/*.jpg and data/own/labels/test/*.png (class index of
# each pixel, 255 = none) there, or change this.
test_pipeline = [
    dict(type="LoadImageFromFile"{loading}),
    dict(type="Resize", {resize}),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root="data/own",
        data_prefix=dict(img_path="images/test", seg_map_path="labels/test"),
        metainfo={_text(metainfo, 8, 9)},
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type="mmseg_tome.IoUMetric", iou_metrics=["mIoU"])
test_cfg = dict(type="TestLoop")"""


def _text(value, indent: int = 0, before: int = 0) -> str:
    """A plain value as Python in the style of configs.

    Args:
        value: What to write.
        indent: Spaces before the line it begins on.
        before: Characters before it on that line, beyond the indent.
    """
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # Python's repr would use single quotes
    if isinstance(value, Mapping):
        items, brackets = [f"{key}=" for key in value], ("dict(", ")")
        items = list(zip(items, value.values(), strict=True))
    elif isinstance(value, (list, tuple)):
        items, brackets = [("", item) for item in value], "[]"
    else:
        return repr(value)
    line = brackets[0] + ", ".join(f"{key}{_text(item)}" for key, item in items) + brackets[1]
    if len(line) + indent + before < LINE and "\n" not in line:
        return line
    inner = indent + 4
    lines = [f"{' ' * inner}{key}{_text(item, inner, len(key) + 1)},\n" for key, item in items]
    return f"{brackets[0]}\n{''.join(lines)}{' ' * indent}{brackets[1]}"


def _relative(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`; absolute where there is no way between them."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()
