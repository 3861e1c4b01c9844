"""A network of each task with two stages, which merge as a preset's first and third one do."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmseg_tome import compat
from mmseg_tome.export.metadata import describe
from mmseg_tome.export.network import Network
from mmseg_tome.merging.presets import PRESETS

CLASSES = ["road", "sky", "tree", "car", "sign"]
KEYPOINTS = ["nose", "left", "right"]
BACKBONE = dict(
    type="mmseg_tome.MixVisionTransformer",
    num_stages=2,
    embed_dims=8,
    num_heads=[1, 2],
    patch_sizes=[7, 3],
    strides=[4, 2],
    sr_ratios=[4, 1],
    out_indices=(0, 1),
)
NORMALISE = dict(mean=[120.0, 110, 100], std=[60.0, 50, 40], bgr_to_rgb=True)


def segmentation_config(tome_cfg) -> Config:
    return Config(
        dict(
            default_scope="mmseg",
            model=dict(
                type="EncoderDecoder",
                data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 96), **NORMALISE),
                backbone=dict(**BACKBONE, tome_cfg=tome_cfg),
                decode_head=dict(
                    type="mmseg_tome.SegformerHead",
                    in_channels=[8, 16],
                    in_index=[0, 1],
                    channels=16,
                    num_classes=len(CLASSES),
                    norm_cfg=dict(type="BN"),
                    align_corners=False,
                ),
                test_cfg=dict(mode="whole"),
            ),
            test_dataloader=dict(
                dataset=dict(
                    type="BaseSegDataset",
                    pipeline=[
                        dict(type="LoadImageFromFile"),
                        dict(type="Resize", scale=(200, 100), keep_ratio=True),
                        dict(type="LoadAnnotations"),
                        dict(type="PackSegInputs"),
                    ],
                )
            ),
        )
    )


def pose_config(tome_cfg) -> Config:
    codec = dict(type="MSRAHeatmap", input_size=(72, 96), heatmap_size=(18, 24), sigma=2)
    return Config(
        dict(
            default_scope="mmpose",
            model=dict(
                type="TopdownPoseEstimator",
                data_preprocessor=dict(type="PoseDataPreprocessor", **NORMALISE),
                backbone=dict(**BACKBONE, tome_cfg=tome_cfg),
                head=dict(
                    type="mmseg_tome.SegformerHeatmapHead",
                    in_channels=[8, 16],
                    out_channels=len(KEYPOINTS),
                    channels=16,
                    decoder=codec,
                ),
                test_cfg=dict(flip_test=False),
            ),
            test_dataloader=dict(
                dataset=dict(
                    type="CocoDataset",
                    pipeline=[
                        dict(type="LoadImage"),
                        dict(type="GetBBoxCenterScale"),
                        dict(type="TopdownAffine", input_size=codec["input_size"]),
                        dict(type="PackPoseInputs"),
                    ],
                )
            ),
        )
    )


@pytest.fixture(scope="session")
def tiny() -> Callable:
    """A task's config and its `Network` with random weights, under a preset or `tome_cfg`."""

    def build(task: str = "segmentation", tome_cfg=None, half: bool = False, blocks: int = 1):
        if not compat.has("mmseg" if task == "segmentation" else "mmpose"):
            pytest.skip(f"{task} needs its mm package")
        stages = PRESETS[tome_cfg][::2] if isinstance(tome_cfg, str) else tome_cfg
        cfg = (segmentation_config if task == "segmentation" else pose_config)(stages)
        cfg.model.backbone.num_layers = [blocks] * 2
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        # Larger than they begin, so that outputs differ from place to place.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        if task == "segmentation":
            model.dataset_meta = dict(classes=CLASSES, palette=[[i * 40] * 3 for i in range(5)])
        else:
            model.dataset_meta = dict(
                keypoint_id2name=dict(enumerate(KEYPOINTS)), sigmas=np.ones(3, np.float32)
            )
        return cfg, Network(model, half=half)

    return build


@pytest.fixture(scope="session")
def described() -> Callable:
    """The metadata of what `tiny` gives."""

    def build(cfg, network, size, **more):
        return describe(cfg, network.model, size, **more)

    return build
