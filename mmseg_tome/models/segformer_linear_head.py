"""The decode head of SegFormer's own authors, whose level projections are linear."""

from mmcv.cnn import ConvModule
from torch import nn

from mmseg_tome.models.segformer_head import SegformerHead
from mmseg_tome.registry import MODELS


@MODELS.register_module()
class SegformerLinearHead(SegformerHead):
    """The head of NVlabs' and Hugging Face's SegFormer: levels are projected and nothing more.

    mmseg's `SegformerHead` puts a norm and a ReLU behind each level's projection, NVlabs' original
    (arXiv 2105.15203, section 3.2) a bias alone. Neither can stand for the other, so that
    checkpoints converted from there need this head. Same arguments; `norm_cfg` and `act_cfg`
    concern the fusion only.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convs = nn.ModuleList(
            ConvModule(channels, self.channels, kernel_size=1, act_cfg=None)
            for channels in self.in_channels
        )
