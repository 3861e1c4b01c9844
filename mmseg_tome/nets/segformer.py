"""Whole models: a backbone and a head, under the names of mm's segmentors and pose estimators."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmseg_tome.merging import parse_tome_cfg
from mmseg_tome.nets.heads import SegformerHead, SegformerHeatmapHead
from mmseg_tome.nets.mix_transformer import MixVisionTransformer

VARIANTS = {
    "b0": (32, (2, 2, 2, 2)),
    "b1": (64, (2, 2, 2, 2)),
    "b2": (64, (3, 4, 6, 3)),
    "b3": (64, (3, 4, 18, 3)),
    "b4": (64, (3, 8, 27, 3)),
    "b5": (64, (3, 6, 40, 3)),
}
"""Channels of an attention head and blocks of each stage (arXiv 2105.15203, table 6)."""

NUM_HEADS = (1, 2, 5, 8)

TASKS = {"segmentation": ("decode_head", SegformerHead), "pose": ("head", SegformerHeatmapHead)}
"""What a model's head is called, and its class."""


class SegFormer(nn.Module):
    """SegFormer: a backbone and the head of one task, from images to logits or heatmaps.

    Args:
        backbone: From images to feature maps.
        head: From feature maps to the output.
        task: "segmentation" or "pose": the name that state dicts have for the head,
            `decode_head` or `head`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, task: str = "segmentation"):
        super().__init__()
        self.backbone = backbone
        self._head = TASKS[task][0]
        self.add_module(self._head, head)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to logits or heatmaps.

        Args:
            images: `[B, in_channels, H, W]`, RGB, each channel less its mean and divided by its
                standard deviation.

        Returns:
            `[B, num_classes, h, w]`, h and w being H / 4 and W / 4, rounded up. Resize logits to
            the image bilinearly for the class of each pixel.

        Raises:
            mmseg_tome.nets.errors.ImageSizeError: H or W is too small.
        """
        return getattr(self, self._head)(self.backbone(images))


def create_model(
    variant: str,
    num_classes: int = 19,
    task: str = "segmentation",
    tome_cfg: str | Sequence | Mapping | None = None,
    *,
    in_channels: int = 3,
    channels: int = 256,
    linear: bool = False,
    drop_path_rate: float = 0.1,
    with_cp: bool = False,
    down_sample: bool = False,
) -> SegFormer:
    """Build a SegFormer with newly drawn weights, in training mode as any new module.

        model = create_model("b5", num_classes=19, tome_cfg="fast")
        load_weights(model, "segformer_b5.pth")
        logits = model.eval()(images)

    Args:
        variant: "b0" to "b5".
        num_classes: Number of classes; for pose, of keypoints.
        task: "segmentation" or "pose".
        tome_cfg: What merges: None, a preset's name (`hq`, `fast`, `n2d`, ...) or one dict per
            stage, see `mmseg_tome.merging.config`. One with the `-auto` suffix merges in all its
            stages until `mmseg_tome.calibrate(model, images)` decides in which that saves time.
        in_channels: Channels of the images.
        channels: Channels that the head fuses levels in: 256 in all of mmseg's checkpoints, 768
            in NVlabs' and Hugging Face's of B2 to B5.
        linear: See `SegformerHead`; of segmentation only.
        drop_path_rate: Drop-path rate of the last block in training.
        with_cp: Recompute blocks in the backward pass to save memory.
        down_sample: Halve images first, the paper's baseline to merging.

    Returns:
        A model whose state dict has the keys of an mm checkpoint: `backbone.*`, and
        `decode_head.*` or `head.*`.

    Raises:
        ValueError: An unknown variant or task, or `linear` for pose.
        mmseg_tome.merging.TomeConfigError: `tome_cfg` cannot be read.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; allowed: {', '.join(VARIANTS)}")
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
    if linear and task != "segmentation":
        raise ValueError(f"linear=True is of heads for segmentation, not for {task}")
    parse_tome_cfg(tome_cfg)
    embed_dims, num_layers = VARIANTS[variant]
    backbone = MixVisionTransformer(
        in_channels=in_channels,
        embed_dims=embed_dims,
        num_layers=num_layers,
        num_heads=NUM_HEADS,
        drop_path_rate=drop_path_rate,
        with_cp=with_cp,
        tome_cfg=tome_cfg,
        down_sample=down_sample,
    )
    options = dict(linear=linear) if task == "segmentation" else {}
    levels = [embed_dims * heads for heads in NUM_HEADS]
    head = TASKS[task][1](levels, num_classes, channels, **options)
    model = SegFormer(backbone, head, task)
    backbone.init_weights()
    head.init_weights()
    return model


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its backbone's first convolution.

    Args:
        model: A segmentor, a pose estimator, or a backbone; one that has no such convolution says
            so itself by an attribute `image_channels`.

    Raises:
        ValueError: It begins with no convolution.
    """
    backbone = getattr(model, "backbone", model)
    channels = getattr(backbone, "image_channels", None)
    if channels is not None:
        return channels
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError(f"{type(backbone).__name__} has no convolution that takes an image")
