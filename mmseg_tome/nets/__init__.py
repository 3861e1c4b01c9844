"""The network in torch alone: backbone, heads, whole models. No package of the mm stack.

model = create_model("b5", num_classes=19, tome_cfg="fast")
logits = model(images)  # [B, 3, H, W] -> [B, 19, H / 4, W / 4]
"""

from mmseg_tome.nets.heads import SegformerHead, SegformerHeatmapHead
from mmseg_tome.nets.mix_transformer import MixVisionTransformer
from mmseg_tome.nets.segformer import SegFormer, create_model

__all__ = [
    "MixVisionTransformer",
    "SegFormer",
    "SegformerHead",
    "SegformerHeatmapHead",
    "create_model",
]
