"""What a built model merges: read it, set it, switch it off for a while. Weights stay.

mmseg_tome.set_merging(model, "fast")
with torch.no_grad(), mmseg_tome.without_merging(model):
    unmerged = model(images)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import nn

from mmseg_tome.errors import UserError
from mmseg_tome.huggingface import apply_merging
from mmseg_tome.huggingface.layouts import has_encoder
from mmseg_tome.huggingface.switch import module_of
from mmseg_tome.merging import StageMerging
from mmseg_tome.merging.attention import TokenMerger
from mmseg_tome.merging.strategies.identity import Identity
from mmseg_tome.nets import MixVisionTransformer
from mmseg_tome.runtime.graphs import graphed_parts, suspended


class NothingMergesError(UserError, ValueError):
    """A model that cannot merge, or that does not where its merging is to be switched off."""


def merging_backbone(model: nn.Module) -> MixVisionTransformer | None:
    """A model's backbone if it is ours, whatever is wrapped around it."""
    found = (module for module in model.modules() if isinstance(module, MixVisionTransformer))
    return next(found, None)


def set_merging(model: nn.Module, tome_cfg: str | Sequence | Mapping | None) -> None:
    """Let a model merge by another `tome_cfg` from now on.

    What was calibrated for `-auto` is forgotten, and CUDA graphs that merge as before are freed.

    Args:
        model: Any module that has one of these inside: a `MixVisionTransformer` of ours (models of
            `mmseg_tome.create_model` and of configs), a stock backbone under our name
            (`mmseg_tome.VisionTransformer`, `.SVT`, ...), a SegFormer of `transformers`; or a
            pipeline of `transformers` that runs one.
        tome_cfg: None, a preset's name or one dict per stage, see `mmseg_tome.merging.config`.

    Raises:
        NothingMergesError: The model has none of them.
        TomeConfigError: `tome_cfg` cannot be read, or has the `-auto` suffix for a model whose
            backbone is not a `MixVisionTransformer`; the model is left as it was.
    """
    model = module_of(model)
    backbones = [module for module in model.modules() if hasattr(module, "set_merging")]
    for backbone in backbones:
        backbone.set_merging(tome_cfg)
    if not backbones:
        if not has_encoder(model):
            raise NothingMergesError(
                f"{type(model).__name__} has no mmseg_tome.MixVisionTransformer, stock backbone "
                "that merges, or SegFormer of transformers in it"
            )
        apply_merging(model, tome_cfg)
    forget_graphs(model)


def merging_of(backbone: MixVisionTransformer) -> list[StageMerging]:
    """How each stage of a backbone merges, as `parse_tome_cfg` gives it."""
    firsts = [attentions[0] for attentions in backbone.attentions()]
    return [
        StageMerging(attn.q_merger.strategy, attn.kv_merger.strategy, reuse, attn.proportional)
        for attn, reuse in zip(firsts, backbone.reuse, strict=True)
    ]


def merges(stage: StageMerging) -> bool:
    """Whether a stage merges anything."""
    return not (isinstance(stage.q, Identity) and isinstance(stage.kv, Identity))


def forget_graphs(model: nn.Module) -> None:
    """Free a model's CUDA graphs: they merge as they did when they were captured."""
    for part in graphed_parts(model):
        for use in part.uses:
            part.forget(use)


@contextmanager
def without_merging(model: nn.Module) -> Iterator[nn.Module]:
    """Let a model merge nothing inside the context, and merge as before after it.

    Every merger gets the identity for a strategy; weights are neither copied nor changed. A model
    that runs by CUDA graphs runs without them meanwhile, since a graph merges as it did when it
    was captured.

    Args:
        model: As of `set_merging`.

    Yields:
        The model.

    Raises:
        NothingMergesError: It has no token mergers, or its `tome_cfg` merges nothing.
    """
    module = module_of(model)
    mergers = [each for each in module.modules() if isinstance(each, TokenMerger)]
    check_merges(module, mergers)
    strategies = [merger.strategy for merger in mergers]
    try:
        for merger in mergers:
            merger.strategy = Identity()
        with suspended(module):
            yield model
    finally:
        for merger, strategy in zip(mergers, strategies, strict=True):
            merger.strategy = strategy


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
