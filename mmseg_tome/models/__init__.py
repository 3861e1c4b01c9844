"""Models, registered in the scope `mmseg_tome`."""

from mmseg_tome import compat
from mmseg_tome.models.mix_transformer import MixVisionTransformer

__all__ = ["MixVisionTransformer"]

if compat.has("mmseg"):
    from mmseg_tome.models.data_preprocessor import SegDataPreProcessor
    from mmseg_tome.models.encoder_decoder import EncoderDecoder
    from mmseg_tome.models.seg_tta import SegTTAModel
    from mmseg_tome.models.segformer_head import SegformerHead
    from mmseg_tome.models.segformer_linear_head import SegformerLinearHead
    from mmseg_tome.models.twins import PCPVT, SVT
    from mmseg_tome.models.vision_transformer import VisionTransformer

    __all__ += [
        "PCPVT",
        "SVT",
        "EncoderDecoder",
        "SegDataPreProcessor",
        "SegTTAModel",
        "SegformerHead",
        "SegformerLinearHead",
        "VisionTransformer",
    ]

if compat.has("mmpose"):
    from mmseg_tome.models.data_preprocessor import PoseDataPreprocessor
    from mmseg_tome.models.pvt import PyramidVisionTransformer, PyramidVisionTransformerV2
    from mmseg_tome.models.segformer_heatmap_head import SegformerHeatmapHead
    from mmseg_tome.models.topdown import TopdownPoseEstimator

    __all__ += [
        "PoseDataPreprocessor",
        "PyramidVisionTransformer",
        "PyramidVisionTransformerV2",
        "SegformerHeatmapHead",
        "TopdownPoseEstimator",
    ]
