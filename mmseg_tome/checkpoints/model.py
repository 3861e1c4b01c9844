"""A config and its checkpoint as a model in eval mode, for all tools that have no runner."""

from __future__ import annotations

import warnings
from contextlib import ExitStack

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import nn

from mmseg_tome import compat
from mmseg_tome.checkpoints.fitting import load_state
from mmseg_tome.checkpoints.loading import load
from mmseg_tome.config import is_pose
from mmseg_tome.errors import UserError
from mmseg_tome.registry import MODELS


def load_model(
    cfg: Config, checkpoint: str | None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Build a config's segmentation or pose model with a checkpoint's weights.

    Args:
        cfg: The config; stays as it is.
        checkpoint: File or address of weights, which must fit in full; None for random ones, always
            the same.
        device: Where the model goes.

    Returns:
        The model in eval mode, with its config as `cfg` and names of classes or keypoints in
        `dataset_meta`, as mmseg's and mmpose's own functions want it.

    Raises:
        CheckpointError: The checkpoint cannot be read, wants to run code, or does not fit.
        UserError: The mm package is missing, or a pose model is not top-down, or has other
            keypoints than its data set.
    """
    package = "mmpose" if is_pose(cfg) else "mmseg"
    if not compat.has(package):
        raise UserError(f"this config needs {package}, which is not installed here")
    cfg = Config(cfg.to_dict())
    init_default_scope(cfg.get("default_scope") or package)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module="mmseg")  # on the arguments of its own losses
        if checkpoint is None:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(0)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if package == "mmpose":
        check_top_down(model)
    meta = {} if checkpoint is None else load_state(model, load(checkpoint), checkpoint)
    if package == "mmpose":
        model.dataset_meta = meta.get("dataset_meta") or find_keypoints(cfg)
        check_keypoints(model)
    elif hasattr(model, "num_classes"):
        # A single channel tells two classes apart, whatever number of them the head was told.
        number = max(model.num_classes, 2 if model.out_channels == 1 else 1)
        model.dataset_meta = find_classes(meta, cfg, number)
    model.cfg = cfg
    return model.to(device).eval()


def check_top_down(model: nn.Module) -> None:
    """Raise UserError unless a pose model predicts the keypoints of one person in a box."""
    from mmpose.models import TopdownPoseEstimator

    if not isinstance(model, TopdownPoseEstimator):
        kind = type(model).__name__
        raise UserError(f"{kind} is not a top-down model, nothing else can be run")


def check_keypoints(model: nn.Module) -> None:
    """Raise UserError unless a pose model predicts as many keypoints as its data set has."""
    known = len(model.dataset_meta["keypoint_id2name"])
    predicted = getattr(model.head, "out_channels", known)
    if predicted != known:
        raise UserError(f"the model has {predicted} keypoints, its data set {known}")


def find_keypoints(cfg: Config) -> dict:
    """mmpose's description of a config's data set, of COCO where it does not say."""
    from mmpose.apis.inference import dataset_meta_from_config
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    coco = dict(from_file="configs/_base_/datasets/coco.py")
    with warnings.catch_warnings():
        # Found in mmpose wherever one stands, which is what is meant.
        warnings.filterwarnings("ignore", message="The metainfo config file")
        return dataset_meta_from_config(cfg, "train") or parse_pose_metainfo(coco)


def find_classes(meta: dict, cfg: Config, number: int) -> dict:
    """Names and colours of `number` classes: the checkpoint's, or the config's, or made up.

    Args:
        meta: The checkpoint's `meta`.
        cfg: The config, whose test data set is asked without being built.
        number: How many classes the model has.

    Returns:
        `classes` and `palette`, RGB.
    """
    from mmseg.registry import DATASETS

    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    kind = dataset.get("type")
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    declared = {**getattr(kind, "METAINFO", {}), **(dataset.get("metainfo") or {})}
    old = dict(classes=meta.get("CLASSES"), palette=meta.get("PALETTE"))  # mmseg 0.x
    found = [meta.get("dataset_meta") or {}, old, declared]
    fitting = [known for known in found if len(known.get("classes") or ()) == number]
    classes = fitting[0]["classes"] if fitting else [f"class {i}" for i in range(number)]
    palettes = [known.get("palette") for known in fitting]
    palettes = [palette for palette in palettes if len(palette or ()) == number]
    # mmseg's colours for data sets without any.
    made_up = np.random.RandomState(42).randint(0, 255, (number, 3)).tolist()
    return dict(classes=classes, palette=palettes[0] if palettes else made_up)
