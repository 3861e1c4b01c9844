"""Entry points for `torch.hub.load`, with torch alone; no package of the mm stack is needed.

    model = torch.hub.load(REPO, "segformer_plusplus", backbone="b5", num_classes=19, tome_cfg="hq",
                           pretrained=False, checkpoint="segformer_b5.pth").eval()
    logits = model(torch.hub.load(REPO, "data_transforms")(image)[None])

Names and arguments of the SegFormer++ authors' own entry points are understood, too:
`backbone="b5", tome_strategy="bsm_hq", out_channels=19, checkpoint_url=...`. Where theirs print a
line and return a model without the weights, these raise.
"""

from collections import abc  # modules, not names: torch.hub lists every callable in this one

import torch
from torch import nn

from mmseg_tome import create_model as _create_model
from mmseg_tome import load_weights as _load_weights
from mmseg_tome.errors import UserError as _UserError

dependencies = ["torch", "numpy"]

_STRATEGIES = {"bsm_hq": "hq", "bsm_fast": "fast", "n2d_2x2": "n2d", "none": None}
_IMAGENET = "https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segformer/mit_{}.pth"
_FILES = {
    "b0": "b0_20220624-7e0fe6dd",
    "b1": "b1_20220624-02e5a6a1",
    "b2": "b2_20220624-66e8bf70",
    "b3": "b3_20220624-13b1141c",
    "b4": "b4_20220624-d588d980",
    "b5": "b5_20220624-658746d9",
}


def segformer_plusplus(
    backbone: str = "b5",
    tome_strategy: str | None = None,
    out_channels: int | None = None,
    pretrained: bool = True,
    checkpoint_url: str | None = None,
    *,
    num_classes: int | None = None,
    tome_cfg: str | abc.Sequence | abc.Mapping | None = "hq",
    checkpoint: str | None = None,
    **kwargs,
) -> nn.Module:
    """SegFormer++ for segmentation, from normalised images [B, 3, H, W] to logits at H/4 x W/4.

    Args:
        backbone: "b0" to "b5".
        tome_strategy: The authors' name of a preset, or one of ours; goes before `tome_cfg`.
        out_channels: The authors' name of `num_classes`.
        pretrained: Download ImageNet weights for the backbone, unless a checkpoint is given.
        checkpoint_url: The authors' name of `checkpoint`.
        num_classes: Number of classes; 19, Cityscapes', by default.
        tome_cfg: What merges: a preset (`hq`, `fast`, `n2d`, `quality`, ...), one dict per stage,
            or None.
        checkpoint: Path or address of weights of the whole model, in any format that
            `mmseg_tome.load_weights` reads.
        kwargs: Others of `mmseg_tome.create_model`; `channels=768` fits NVIDIA's B2 to B5.

    Raises:
        UserError: Weights cannot be had, read, or do not fit; `tome_cfg` cannot be read.
        ValueError: An unknown backbone, or two arguments that say the same differently.
    """
    number = _one("num_classes", num_classes, "out_channels", out_channels, 19)
    return _model(
        "segmentation",
        number,
        backbone,
        tome_strategy,
        tome_cfg,
        pretrained,
        _one("checkpoint", checkpoint, "checkpoint_url", checkpoint_url, None),
        kwargs,
    )


def segformer_plusplus_pose(
    backbone: str = "b5",
    tome_strategy: str | None = None,
    out_channels: int | None = None,
    pretrained: bool = True,
    checkpoint_url: str | None = None,
    *,
    num_keypoints: int | None = None,
    tome_cfg: str | abc.Sequence | abc.Mapping | None = "hq",
    checkpoint: str | None = None,
    **kwargs,
) -> nn.Module:
    """SegFormer++ for pose, from normalised crops of persons to heatmaps of a quarter of the size.

    Arguments are those of `segformer_plusplus`; `num_keypoints` is 17, COCO's, by default.
    """
    return _model(
        "pose",
        _one("num_keypoints", num_keypoints, "out_channels", out_channels, 17),
        backbone,
        tome_strategy,
        tome_cfg,
        pretrained,
        _one("checkpoint", checkpoint, "checkpoint_url", checkpoint_url, None),
        kwargs,
    )


def data_transforms(
    resolution: tuple[int, int] = (1024, 1024),
    mean: abc.Sequence[float] = (0.485, 0.456, 0.406),
    std: abc.Sequence[float] = (0.229, 0.224, 0.225),
) -> nn.Module:
    """What makes a model's input of an image.

    Args:
        resolution: Height and width that images are resized to, bilinearly with antialiasing.
        mean: Of each channel, RGB of 0 to 1.
        std: The same.

    Returns:
        A module that takes a PIL image or a uint8 array or tensor `[H, W, 3]`, RGB, and gives a
        float tensor `[3, *resolution]`.
    """
    return _Transforms(resolution, mean, std)


class _Transforms(nn.Module):
    def __init__(
        self, resolution: abc.Sequence[int], mean: abc.Sequence[float], std: abc.Sequence[float]
    ):
        super().__init__()
        self.resolution = tuple(resolution)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, image) -> torch.Tensor:
        if hasattr(image, "convert"):  # PIL's, which is no dependency
            image = image.convert("RGB")
            image = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(
                image.height, image.width, 3
            )
        image = torch.as_tensor(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
            raise _UserError(
                f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}"
            )
        image = image.permute(2, 0, 1)[None].float() / 255  # [1, 3, H, W]
        if image.shape[2:] != self.resolution:
            image = nn.functional.interpolate(
                image, self.resolution, mode="bilinear", antialias=True, align_corners=False
            )
        return (image[0].to(self.mean) - self.mean) / self.std


def _one(name: str, value, other: str, theirs, default):
    """An argument that has two names."""
    if value is not None and theirs is not None and value != theirs:
        raise ValueError(f"{name}={value!r} and {other}={theirs!r} differ")
    given = theirs if value is None else value
    return default if given is None else given


def _model(
    task: str, number: int, backbone: str, strategy, tome_cfg, pretrained, checkpoint, options: dict
) -> nn.Module:
    if strategy is not None:
        tome_cfg = _STRATEGIES.get(strategy, strategy)
    model = _create_model(backbone, number, task, tome_cfg, **options)
    if checkpoint is not None:
        return _load_weights(model, checkpoint)
    return _load_weights(model, _IMAGENET.format(_FILES[backbone])) if pretrained else model
