"""Merging switched on and off in a model."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn

from mmseg_tome.huggingface.attention import OpensPass
from mmseg_tome.huggingface.layouts import Stage, find_encoders, layout_of
from mmseg_tome.huggingface.mixing import Mixin, ModelError, check_untouched, mix_in, take_out
from mmseg_tome.merging import StageMerging, parse_without_auto
from mmseg_tome.merging.attention import let_merge

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
        ModelError: The model has no SegFormer of `transformers` in it, or another tool, such as
            accelerate, replaced the forward of its attention.
        mmseg_tome.merging.TomeConfigError: `tome_cfg` cannot be read, or does not fit the model.
    """
    encoders = find_encoders(module_of(model))
    plans = [_plan(encoder, tome_cfg) for encoder in encoders]
    changes = {module: mixin for mixins, _ in plans for module, mixin in mixins.items()}
    for module in changes:
        check_untouched(module)
    remove_merging(model)
    for module, mixin in changes.items():
        mix_in(module, mixin)
    for encoder, (_, settings) in zip(encoders, plans, strict=True):
        for i, (stage, merging) in enumerate(zip(encoder, settings, strict=True)):
            let_merge(stage.attentions, merging, i)
    return model


def remove_merging(model: Model) -> Model:
    """Undo `apply_merging`: the model does again what it did before. Without merging, do nothing.

    Args:
        model: A module, or a pipeline that runs one. Is changed in place.

    Returns:
        The model, or the pipeline.

    Raises:
        ModelError: It is neither, or another tool changed it after merging was applied.
    """
    owner = module_of(model)
    if not isinstance(owner, nn.Module):
        raise ModelError(
            f"merging can be removed from a torch.nn.Module or a pipeline, got {model!r}"
        )
    merged = [module for module in owner.modules() if isinstance(module, Mixin)]
    for module in merged:
        check_untouched(module)
    for module in merged:
        take_out(module)
        if hasattr(module, "q_merger"):
            del module.q_merger, module.kv_merger, module.proportional
    return model


def module_of(model: object) -> object:
    """The module that a pipeline runs; anything else as it is."""
    inner = getattr(model, "model", None)
    return inner if isinstance(inner, nn.Module) and not isinstance(model, nn.Module) else model


def _plan(
    stages: list[Stage], tome_cfg: str | Mapping | Sequence | None
) -> tuple[dict[nn.Module, type[Mixin]], list[StageMerging]]:
    """What to mix into which modules of one encoder, and how its stages merge."""
    settings = parse_without_auto(tome_cfg, num_stages=len(stages))
    mixins: dict[nn.Module, type[Mixin]] = {
        attention: layout_of(attention) for stage in stages for attention in stage.attentions
    }
    for stage, merging in zip(stages, settings, strict=True):
        if merging.reuse > 1:
            mixins[stage.runner] = OpensPass
    return mixins, settings
