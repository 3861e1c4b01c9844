"""The network in torch alone: backbone and head. No package of the mm stack."""

from mmseg_tome.nets.mix_transformer import MixVisionTransformer

__all__ = ["MixVisionTransformer"]
