"""A trained segmentor whose merging can be set anew at any time, without building it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from mmseg_tome.checkpoints.model import load_model
from mmseg_tome.errors import UserError
from mmseg_tome.models import MixVisionTransformer
from mmseg_tome.runtime import merging_switch
from mmseg_tome.runtime.acceleration import accelerate

from .settings import NONE, Setting


def build_network(cfg: Config, checkpoint: str) -> nn.Module:
    """A config's model with a checkpoint's weights, on the CPU, in eval mode.

    Raises:
        UserError: The model has no merge-aware backbone.
        CheckpointError: The checkpoint cannot be read, or does not fit.
    """
    model = load_model(cfg, checkpoint)
    if not isinstance(getattr(model, "backbone", None), MixVisionTransformer):
        raise UserError(
            "the config's model has no backbone of type mmseg_tome.MixVisionTransformer"
        )
    return model.requires_grad_(False)


def set_merging(backbone: MixVisionTransformer, setting: Setting) -> None:
    """Let a backbone merge by a setting from now on; its weights stay as they are."""
    merging_switch.set_merging(backbone, setting.tome_cfg)
    backbone.down_sample = setting.down_sample


def tokens_kept(
    backbone: MixVisionTransformer, hw: tuple[int, int], setting: Setting
) -> dict[str, float]:
    """Percent of all blocks' queries, keys/values and query-key pairs that a setting leaves.

    Args:
        backbone: Is left with this setting.
        hw: Size of the images, before any downsampling.
        setting: What merges.
    """
    sums = []
    for chosen in (NONE, setting):
        set_merging(backbone, chosen)
        counts = {"queries": 0, "keys_values": 0, "pairs": 0}
        for blocks, kept in zip(backbone.num_layers, backbone.tokens_kept(hw), strict=True):
            q, kv = kept["q"][0], kept["kv"][0]
            for name, count in zip(counts, (q, kv, q * kv), strict=True):
                counts[name] += blocks * count
        sums.append(counts)
    total, left = sums
    return {name: round(100 * left[name] / total[name], 2) for name in total}


class Network:
    """A trained model on a device, to be run under any setting.

    Args:
        cfg: Its config; what merges there does not matter.
        checkpoint: File of its weights.
        device: Where it runs.
        dtype: "float32", or "bfloat16" or "float16" for half precision, see `accelerate`.

    Raises:
        UserError: As for `build_network`.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str, dtype: str = "float32") -> None:
        self.model = build_network(cfg, checkpoint).to(device)
        if dtype != "float32":
            accelerate(self.model, dtype, launch="eager")

    @torch.no_grad()
    def predict(self, batches: Iterable[list[dict]], setting: Setting) -> Iterator[np.ndarray]:
        """Predicted classes of each image at its original size, uint8 or uint16 `[H, W]`.

        Args:
            batches: Samples of a test pipeline; those of a batch have one size.
            setting: What merges.
        """
        set_merging(self.model.backbone, setting)
        few = self.model.num_classes < 255
        for batch in batches:
            for sample in self.model.test_step(pseudo_collate(batch)):
                classes = sample.pred_sem_seg.data[0].to(torch.uint8 if few else torch.int32)
                yield classes.cpu().numpy().astype(np.uint8 if few else np.uint16, copy=False)

    def tokens_kept(self, hw: tuple[int, int], setting: Setting) -> dict[str, float]:
        """As the function of this name."""
        return tokens_kept(self.model.backbone, hw, setting)
