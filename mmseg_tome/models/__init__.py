"""Models, registered in the scope `mmseg_tome`."""

from mmseg_tome import compat
from mmseg_tome.models.mix_transformer import MixVisionTransformer

__all__ = ["MixVisionTransformer"]

if compat.has("mmseg"):
    from mmseg_tome.models.segformer_head import SegformerHead
    from mmseg_tome.models.segformer_linear_head import SegformerLinearHead

    __all__ += ["SegformerHead", "SegformerLinearHead"]

if compat.has("mmpose"):
    from mmseg_tome.models.segformer_heatmap_head import SegformerHeatmapHead

    __all__ += ["SegformerHeatmapHead"]
