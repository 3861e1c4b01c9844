"""Merging switched on and off in a model."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn

from mmseg_tome.huggingface.attention import BlockMerging, OpensPass
from mmseg_tome.huggingface.layouts import Stage, find_encoders, layout_of
from mmseg_tome.huggingface.mixing import Mixin, check_untouched, mix_in, take_out
from mmseg_tome.merging import StageMerging, parse_without_auto

Model = TypeVar("Model")


def apply_merging(model: Model, tome_cfg: str | Mapping | Sequence | None) -> Model:
    """Let a SegFormer of `transformers` merge tokens in its attention, from now on.

    The weights, their names, and all else that the model does stay. Attention is fused
    (`scaled_dot_product_attention`), also without merging. What was applied before is replaced.

    Args:
        model: `SegformerModel`, `SegformerForSemanticSegmentation`,
            `SegformerForImageClassification`, a module that holds one, or a pipeline of
            `transformers` that runs one. It is changed in place.
        tome_cfg: A preset's name (`hq`, `fast`, `n2d`, `hq-turbo`, ...), one dict per stage, or
            None to merge nothing; see `mmseg_tome.merging.config`.

    Returns:
        The model, or the pipeline.

    Raises:
        TypeError: The model has no SegFormer of `transformers` in it, or another tool, such as
            accelerate, replaced the forward of its attention.
        mmseg_tome.merging.TomeConfigError: `tome_cfg` cannot be read, or does not fit the model.
    """
    encoders = find_encoders(_module_of(model))
    plan = [change for encoder in encoders for change in _plan(encoder, tome_cfg)]
    for module, _, _ in plan:
        check_untouched(module)
    remove_merging(model)
    for module, mixin, merging in plan:
        mix_in(module, mixin)
        if merging is not None:
            module.merging = merging
    return model


def remove_merging(model: Model) -> Model:
    """Undo `apply_merging`: the model does again what it did before. Without merging, do nothing.

    Args:
        model: A module, or a pipeline that runs one. Is changed in place.

    Returns:
        The model, or the pipeline.

    Raises:
        TypeError: It is neither, or another tool changed it after merging was applied.
    """
    owner = _module_of(model)
    if not isinstance(owner, nn.Module):
        raise TypeError(
            f"merging can be removed from a torch.nn.Module or a pipeline, got {model!r}"
        )
    merged = [module for module in owner.modules() if isinstance(module, Mixin)]
    for module in merged:
        check_untouched(module)
    for module in merged:
        take_out(module)
        vars(module).pop("merging", None)
    return model


def _module_of(model: object) -> object:
    """The module that a pipeline runs; anything else as it is."""
    inner = getattr(model, "model", None)
    return inner if isinstance(inner, nn.Module) and not isinstance(model, nn.Module) else model


Change = tuple[nn.Module, type[Mixin], BlockMerging | None]
"""A module, what to mix into it, and how it is to merge."""


def _plan(stages: list[Stage], tome_cfg: str | Mapping | Sequence | None) -> list[Change]:
    """All changes to one encoder."""
    settings = parse_without_auto(tome_cfg, num_stages=len(stages))
    both = list(zip(stages, settings, strict=True))
    changes = [
        change for i, (stage, merging) in enumerate(both) for change in _blocks(i, stage, merging)
    ]
    runners = {id(stage.runner): stage.runner for stage, merging in both if merging.reuse > 1}
    return changes + [(runner, OpensPass, None) for runner in runners.values()]


def _blocks(i: int, stage: Stage, merging: StageMerging) -> list[Change]:
    """The changes to the attention of each block of stage `i`."""
    changes: list[Change] = []
    for j, attention in enumerate(stage.attentions):
        group = (i, j // merging.reuse) if merging.reuse > 1 else None
        block = BlockMerging(merging.q, merging.kv, merging.proportional, group)
        changes.append((attention, layout_of(attention), block))
    return changes
