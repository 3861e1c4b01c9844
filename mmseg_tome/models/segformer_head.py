"""SegFormer's decode head, with its fusion at each level's own resolution."""

from collections.abc import Sequence

import torch
from mmseg.models.decode_heads import SegformerHead as StockSegformerHead
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_tome.nets.fusion import fuse_levels, pointwise
from mmseg_tome.registry import MODELS


@MODELS.register_module()
class SegformerHead(StockSegformerHead):
    """The stock all-MLP head: same arguments, state dict and outputs (to rounding), faster."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Feature maps `[B, C_i, H_i, W_i]` of all stages -> logits `[B, classes, H_0, W_0]`."""
        levels = self._transform_inputs(inputs)
        return fuse_levels(
            levels,
            self.convs,
            self.fusion_conv,
            self.cls_seg,
            self.interpolate_mode,
            self.align_corners,
        )

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Classify each pixel, `[B, channels, H, W] -> [B, classes, H, W]`."""
        if self.dropout is not None:
            feat = self.dropout(feat)
        return pointwise(feat, self.conv_seg.weight, self.conv_seg.bias)

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list[SegDataSample]) -> dict:
        """Losses and accuracy as the stock head has them, with nothing that waits for the GPU.

        Args:
            seg_logits: `[B, classes, H_0, W_0]`.
            batch_data_samples: Labels `[1, H, W]` of each image in `gt_sem_seg`.

        Returns:
            A scalar for each loss, by name, and `acc_seg`.
        """
        labels = self._stack_batch_gt(batch_data_samples)  # [B, 1, H, W]
        logits = resize(
            seg_logits, labels.shape[2:], mode="bilinear", align_corners=self.align_corners
        )
        weight = None if self.sampler is None else self.sampler.sample(logits, labels)
        labels = labels.squeeze(1)
        losses: dict[str, Tensor] = {}
        several = isinstance(self.loss_decode, nn.ModuleList)
        for part in self.loss_decode if several else [self.loss_decode]:
            value = part(logits, labels, weight=weight, ignore_index=self.ignore_index)
            known = losses.get(part.loss_name)
            losses[part.loss_name] = value if known is None else known + value
        losses["acc_seg"] = pixel_accuracy(logits, labels, self.ignore_index)
        return losses


@torch.no_grad()
def pixel_accuracy(logits: Tensor, labels: Tensor, ignore_index: int | None) -> Tensor:
    """Percentage of labelled pixels whose highest logit is the label's, as mmseg's `accuracy`.

    That function selects the labelled pixels by a mask, twice; each time the host waits until the
    GPU has counted them. Counting needs no selection.

    Args:
        logits: `[B, classes, H, W]`.
        labels: `[B, H, W]`.
        ignore_index: The label of pixels that do not count.

    Returns:
        `[1]`, float32.
    """
    eps = torch.finfo(torch.float32).eps  # mmseg's: 0 of 0 pixels are 100 %
    correct = logits.argmax(1) == labels
    labelled = torch.ones_like(correct) if ignore_index is None else labels != ignore_index
    scale = 100.0 / (labelled.sum(dtype=torch.float64) + eps)
    return ((correct & labelled).sum().float() + eps).mul(scale.float()).view(1)
