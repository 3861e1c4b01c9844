"""Exported files as the network of a config, for `tools/infer.py --model`.

mmseg and mmpose pre-process, decode and resize back by the parts of the config in the file's
metadata. The backbone runs the file; the head returns its output.
"""

import functools

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tome import compat
from mmseg_tome.checkpoints.loading import SCHEMES
from mmseg_tome.export.metadata import Metadata
from mmseg_tome.export.runtime import open_exported
from mmseg_tome.nets.errors import ImageSizeError
from mmseg_tome.predict.foreign_parts import check_parts
from mmseg_tome.registry import MODELS

SCHEME = "exported://"
"""Address of an exported file as a checkpoint: its weights stay inside of it."""

_open = functools.lru_cache(maxsize=1)(open_exported)


def read_exported(path: str) -> tuple[Config, str]:
    """The config that runs an exported file, and the address that stands for its checkpoint.

    Raises:
        UserError: The file is missing, of another kind, or cannot be read, or would build what is
            no part of an mm package.
    """
    metadata = _open(path).metadata
    check_parts(metadata.inference, path)
    parts = _with_tuples(metadata.inference)
    parts["model"]["backbone"] = dict(type="mmseg_tome.ExportedBackbone", file=path)
    if metadata.task == "pose":
        count = len(metadata.names)
        parts["model"]["head"].update(
            type="mmpose.HeatmapHead",
            in_channels=count,
            deconv_out_channels=None,
            final_layer=None,
        )
    else:
        parts["model"]["decode_head"]["type"] = "mmseg_tome.ExportedDecodeHead"
    return Config(parts), SCHEME + path


@MODELS.register_module()
class ExportedBackbone(nn.Module):
    """Runs an exported file.

    Args:
        file: Its path.
    """

    def __init__(self, file: str):
        super().__init__()
        self.network = _open(file)
        self.image_channels = self.network.metadata.channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images `[B, C, H, W]` -> the output of the file, `[B, K, h, w]`, in a list.

        Raises:
            ImageSizeError: The images are not of a size that the file takes.
        """
        size, least = self.network.metadata.input_size, self.network.metadata.min_side
        if least and min(images.shape[2:]) < least:
            raise ImageSizeError(
                f"an image of {images.shape[2]}x{images.shape[3]} pixels is too small for the "
                f"exported model: both sides must be at least {least}"
            )
        if not least and list(images.shape[2:]) != size:
            raise ImageSizeError(
                f"images of {images.shape[2]}x{images.shape[3]} pixels do not fit the exported "
                f"model, which takes {size[0]}x{size[1]}"
            )
        return [torch.from_numpy(self.network(np.ascontiguousarray(images.numpy())))]


if compat.has("mmseg"):
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    @MODELS.register_module()
    class ExportedDecodeHead(BaseDecodeHead):
        """Returns the logits of an exported file.

        Args:
            num_classes: Number of classes.
            options: Further arguments of `BaseDecodeHead`.
        """

        def __init__(self, num_classes: int, **options):
            super().__init__(num_classes, num_classes, num_classes=num_classes, **options)
            self.conv_seg = nn.Identity()

        def forward(self, inputs: list[Tensor]) -> Tensor:
            """The one tensor of the list."""
            return inputs[0]


def _with_tuples(node):
    """Configs as mm's functions want them: sizes are tuples, which JSON does not know."""
    if isinstance(node, dict):
        return {key: _with_tuples(value) for key, value in node.items()}
    if isinstance(node, list):
        kind = list if any(isinstance(value, dict) for value in node) else tuple
        return kind(map(_with_tuples, node))
    return node


def load_from_exported(filename: str, map_location=None) -> dict:
    """What is read as a checkpoint at the address of an exported file."""
    metadata = _open(filename.removeprefix(SCHEME)).metadata
    return dict(state_dict={}, meta=dict(dataset_meta=_dataset_meta(metadata)))


def _dataset_meta(metadata: Metadata) -> dict:
    """The description of the data set as mmseg and mmpose hold it."""
    data = dict(metadata.dataset_meta)
    for key, value in data.items():
        if isinstance(value, dict) and all(name.isdecimal() for name in value):
            data[key] = {int(name): part for name, part in value.items()}
        elif key in ("keypoint_colors", "skeleton_link_colors"):
            data[key] = np.array(value, np.uint8)
        elif key in ("dataset_keypoint_weights", "sigmas"):
            data[key] = np.array(value, np.float32)
    return data


SCHEMES[SCHEME] = load_from_exported
