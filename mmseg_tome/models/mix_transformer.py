"""The backbone `mmseg_tome.nets.MixVisionTransformer` under mm's arguments and initialisation."""

import copy
import warnings
from collections.abc import Sequence

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule

from mmseg_tome import nets
from mmseg_tome.registry import MODELS


@MODELS.register_module()
class MixVisionTransformer(nets.MixVisionTransformer, BaseModule):
    """A drop-in for mmseg's backbone of this name, with token merging.

    Same arguments, state-dict keys and initialisation, and without merging the same outputs to
    rounding. What it does says `mmseg_tome.nets.MixVisionTransformer`.

    Args:
        in_channels: As there, and so are all that are not named here.
        act_cfg: Activation of MixFFN.
        norm_cfg: Norm of tokens.
        pretrained: Deprecated, use `init_cfg`.
        init_cfg: mmengine's initialisation config.

    Raises:
        mmseg_tome.merging.TomeConfigError: `tome_cfg` cannot be read.
        ValueError: Stage settings of different lengths, or an `out_indices` beyond the stages, or
            empty.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: int = 64,
        num_stages: int = 4,
        num_layers: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        act_cfg: dict = dict(type="GELU"),
        norm_cfg: dict = dict(type="LN", eps=1e-6),
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
        with_cp: bool = False,
        tome_cfg: str | Sequence | dict | None = None,
        down_sample: bool = False,
    ):
        init_cfg = _pretrained_to_init_cfg(pretrained, init_cfg)
        super().__init__(
            in_channels=in_channels,
            embed_dims=embed_dims,
            num_stages=num_stages,
            num_layers=num_layers,
            num_heads=num_heads,
            patch_sizes=patch_sizes,
            strides=strides,
            sr_ratios=sr_ratios,
            out_indices=out_indices,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
            activation=lambda: build_activation_layer(act_cfg),
            norm=lambda channels: build_norm_layer(norm_cfg, channels)[1],
            with_cp=with_cp,
            tome_cfg=tome_cfg,
            down_sample=down_sample,
        )
        self.init_cfg = copy.deepcopy(init_cfg)

    def init_weights(self) -> None:
        """Initialise as the stock backbone does, drawing the same numbers for the same seed."""
        if self.init_cfg is None:
            super().init_weights()
        else:
            BaseModule.init_weights(self)


def _pretrained_to_init_cfg(pretrained: str | None, init_cfg: dict | list | None):
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str):
        raise TypeError(f"pretrained must be a str or None, got {type(pretrained).__name__}")
    if init_cfg:
        raise ValueError("init_cfg and pretrained cannot be set at the same time")
    warnings.warn(
        "pretrained is deprecated, use init_cfg instead", DeprecationWarning, stacklevel=3
    )
    return dict(type="Pretrained", checkpoint=pretrained)
