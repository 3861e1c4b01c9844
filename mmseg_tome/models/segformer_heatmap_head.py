"""SegFormer's all-MLP head with keypoint heatmaps (SegFormer++, arXiv 2405.14467, section 4)."""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.structures import InstanceData, PixelData
from mmpose.models.heads import HeatmapHead
from mmpose.models.utils.tta import flip_heatmaps
from torch import Tensor, nn

from mmseg_tome.merging.grid_cache import cached_per_grid
from mmseg_tome.models.heatmap_decoding import decode_heatmaps, decodes
from mmseg_tome.models.topdown import Mirrored, on_gpu
from mmseg_tome.nets.errors import HeatmapSizeError
from mmseg_tome.nets.fusion import fuse_levels, pointwise
from mmseg_tome.registry import MODELS


@MODELS.register_module()
class SegformerHeatmapHead(HeatmapHead):
    """Fuse the levels of a backbone and predict each keypoint's heatmap at the finest one's size.

    A full MMPose head: loss, prediction with flip test, decoding and heatmap output are those of
    `mmpose.HeatmapHead`. The fusion is that of `mmseg_tome.SegformerHead`. On a GPU the same
    results come faster: the flip test of `mmseg_tome.TopdownPoseEstimator` is one batch, and plain
    MSRA heatmaps are decoded where they are.

    Args:
        in_channels: Channels of each level, the finest first.
        out_channels: Number of keypoints K.
        channels: Channels that levels are projected to and fused in.
        conv_cfg: Config of the 1x1 convolutions.
        norm_cfg: Config of their norms. BN by default, which works in one process and on a CPU.
        act_cfg: Config of their activations.
        interpolate_mode: How coarser levels are brought to the finest one's size.
        align_corners: As in `torch.nn.functional.interpolate`.
        loss: Config of the keypoint loss.
        decoder: Config of the codec that turns heatmaps into keypoints; None for heatmaps alone.
        init_cfg: mmengine's initialisation config; `HeatmapHead.default_init_cfg` if None.

    Raises:
        ValueError: `in_channels` does not list the channels of several levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        channels: int = 256,
        conv_cfg: dict | None = None,
        norm_cfg: dict = dict(type="BN"),
        act_cfg: dict = dict(type="ReLU"),
        interpolate_mode: str = "bilinear",
        align_corners: bool = False,
        loss: dict = dict(type="KeypointMSELoss", use_target_weight=True),
        decoder: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ):
        if not isinstance(in_channels, Sequence):
            raise ValueError(f"in_channels must list the channels of each level, got {in_channels}")
        super().__init__(
            in_channels=channels,
            out_channels=out_channels,
            deconv_out_channels=None,
            loss=loss,
            decoder=decoder,
            init_cfg=init_cfg,
        )
        self.in_channels = list(in_channels)
        self.interpolate_mode = interpolate_mode
        self.align_corners = align_corners

        def conv(channels_in: int) -> ConvModule:
            options = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
            return ConvModule(channels_in, channels, kernel_size=1, **options)

        self.convs = nn.ModuleList(conv(level) for level in in_channels)
        self.fusion_conv = conv(channels * len(in_channels))

    @property
    def default_init_cfg(self) -> dict:
        """Small heatmaps to begin with; the other convolutions start as `ConvModule` makes them."""
        return dict(type="Normal", std=0.001, override=dict(name="final_layer"))

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Feature maps `[B, C_i, H_i, W_i]` of all levels -> heatmaps `[B, K, H_0, W_0]`.

        Heatmaps are float32 at least: numpy, which decodes them, has no bfloat16.
        """
        heatmaps = fuse_levels(
            feats,
            self.convs,
            self.fusion_conv,
            lambda x: pointwise(x, self.final_layer.weight, self.final_layer.bias),
            self.interpolate_mode,
            self.align_corners,
        )
        return heatmaps.to(torch.promote_types(heatmaps.dtype, torch.float32))

    def loss(self, feats: Sequence[Tensor], batch_data_samples: list, train_cfg=None) -> dict:
        """MMPose's `loss_kpt` and `acc_pose`.

        Raises:
            HeatmapSizeError: The codec makes targets of another size than the heatmaps.
        """
        self._check_size(feats[0])
        return super().loss(feats, batch_data_samples, train_cfg or {})

    def predict(self, feats, batch_data_samples: list, test_cfg: dict = {}):
        """As `HeatmapHead.predict`: keypoints, with `output_heatmaps` in a tuple with heatmaps.

        Of `Mirrored` features, which only a flip test has, both halves run as one batch.
        """
        if not isinstance(feats, Mirrored):
            return super().predict(feats, batch_data_samples, test_cfg)
        heatmaps, mirrored = self.forward(feats.joint).chunk(2)
        indices = batch_data_samples[0].metainfo["flip_indices"]
        mirrored = flip_heatmaps(
            mirrored,
            flip_mode=test_cfg.get("flip_mode", "heatmap"),
            flip_indices=_on_device(tuple(indices), mirrored.device),
            shift_heatmap=test_cfg.get("shift_heatmap", False),
        )
        heatmaps = (heatmaps + mirrored) * 0.5
        keypoints = self.decode(heatmaps)
        if not test_cfg.get("output_heatmaps", False):
            return keypoints
        return keypoints, [PixelData(heatmaps=each) for each in heatmaps.detach()]

    def decode(self, batch_outputs: Tensor) -> list:
        """Heatmaps `[B, K, H, W]` -> keypoints in pixels of the input, an `InstanceData` a sample.

        Raises:
            HeatmapSizeError: The codec is set to another size than `H x W`.
        """
        self._check_size(batch_outputs)
        if not (on_gpu(batch_outputs) and decodes(self.decoder)):
            return super().decode(batch_outputs)
        found = decode_heatmaps(batch_outputs, self.decoder.scale_factor)
        return [
            InstanceData(keypoints=keypoints, keypoint_scores=scores)
            for keypoints, scores in zip(*found, strict=True)
        ]

    def _check_size(self, maps: Tensor) -> None:
        """Another size would fail in the loss without saying why, or shift every keypoint."""
        height, width = maps.shape[2:]
        size = getattr(self.decoder, "heatmap_size", None)
        if size is not None and tuple(size) != (width, height):
            raise HeatmapSizeError(
                f"the codec's heatmap_size is {tuple(size)} (w, h), but the network's heatmaps are "
                f"{(width, height)}: a quarter of the input, rounded up"
            )


@cached_per_grid
def _on_device(indices: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept, as bringing a list to a GPU waits for all that the GPU still has to do."""
    return torch.tensor(indices, device=device)
