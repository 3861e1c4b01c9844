"""Running a merging model without merging, by its own weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mmseg_tome.inference.acceleration import GraphedFunction
from mmseg_tome.merging.strategies.identity import Identity
from mmseg_tome.models import MixVisionTransformer
from mmseg_tome.models.attention import TokenMerger
from mmseg_tome.models.stock_backbone import MergingBackbone


class NothingMergesError(ValueError):
    """A model that is to run without merging does not merge in the first place."""


@contextmanager
def without_merging(model: nn.Module) -> Iterator[nn.Module]:
    """Let a model merge nothing inside the context, and merge as before after it.

        with torch.no_grad(), without_merging(model):
            unmerged = model(images)

    Every merger gets the identity for a strategy; weights are neither copied nor changed. A stage
    is not timed for `-auto` meanwhile, and a backbone that runs by CUDA graphs runs without them,
    since a captured graph merges as it did when it was captured.

    Args:
        model: A merge-aware backbone, or any model that has one inside: a segmentor, one wrapped
            for test-time augmentation or for several GPUs.

    Yields:
        The model.

    Raises:
        NothingMergesError: It has no token mergers, or its `tome_cfg` merges nothing.
    """
    mergers = [module for module in model.modules() if isinstance(module, TokenMerger)]
    check_merges(model, mergers)
    kinds = (MixVisionTransformer, MergingBackbone)
    backbones = [module for module in model.modules() if isinstance(module, kinds)]
    strategies = [merger.strategy for merger in mergers]
    autos = [backbone.auto for backbone in backbones]
    forwards = [backbone.__dict__.get("forward") for backbone in backbones]
    try:
        for merger in mergers:
            merger.strategy = Identity()
        for backbone, forward in zip(backbones, forwards, strict=True):
            backbone.auto = None
            if isinstance(forward, GraphedFunction):
                backbone.forward = forward.function
        yield model
    finally:
        for merger, strategy in zip(mergers, strategies, strict=True):
            merger.strategy = strategy
        for backbone, auto, forward in zip(backbones, autos, forwards, strict=True):
            backbone.auto = auto
            if forward is not None:
                backbone.forward = forward


def check_merges(model: nn.Module, mergers: list[TokenMerger]) -> None:
    """Raise NothingMergesError if no merger of a model does anything; the message says why."""
    if not mergers:
        backbone = type(getattr(model, "backbone", model)).__name__
        raise NothingMergesError(
            f"{backbone} has no token mergers: use type='mmseg_tome.MixVisionTransformer' for the "
            "backbone"
        )
    if all(isinstance(merger.strategy, Identity) for merger in mergers):
        raise NothingMergesError(
            "the backbone merges nothing, there is nothing to compare: set tome_cfg, for example "
            "model.backbone.tome_cfg=fast"
        )
