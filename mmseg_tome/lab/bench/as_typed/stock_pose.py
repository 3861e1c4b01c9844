"""The peer of our heatmap head in MMPose's tools, which have no SegFormer head.

The same weights under the same keys; it fuses as SegFormer defines it, and predicts and decodes as
stock heads of MMPose do. Configs of the stock pose model import this module (`custom_imports`).
"""

from __future__ import annotations

from mmpose.models.heads import HeatmapHead
from mmpose.registry import MODELS

from mmseg_tome.lab.bench.peer import use_plain_fusion
from mmseg_tome.models.segformer_heatmap_head import SegformerHeatmapHead


@MODELS.register_module()
class StockHeatmapHead(SegformerHeatmapHead):
    """SegFormer's head with nothing of ours but its layers."""

    predict = HeatmapHead.predict
    decode = HeatmapHead.decode
    loss = HeatmapHead.loss

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        use_plain_fusion(self)
