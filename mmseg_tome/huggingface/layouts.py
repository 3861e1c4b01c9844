"""Where a SegFormer of `transformers` keeps its attention, in every version of it."""

from operator import attrgetter
from typing import NamedTuple

from torch import nn

from mmseg_tome.huggingface.attention import FlatAttention, NestedAttention, SegformerAttention
from mmseg_tome.huggingface.mixing import ModelError

ENCODER = "SegformerModel"
MODELS = f"{ENCODER}, SegformerForSemanticSegmentation or SegformerForImageClassification"
KNOWN = "4.30 to 5.24"
"""Versions of `transformers` that this was written for."""


class Stage(NamedTuple):
    """One stage of the encoder.

    Attributes:
        attentions: The attention module of each block.
        runner: The module that runs all of these blocks.
    """

    attentions: list[nn.Module]
    runner: nn.Module


def find_encoders(model: nn.Module) -> list[list[Stage]]:
    """The stages of every SegFormer encoder in a model.

    Raises:
        ModelError: There is none, or it is built in a way that is not known here.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    encoders = [module for module in modules if _is_encoder(module)]
    if not encoders:
        raise ModelError(
            f"merging can be applied to a {MODELS} of transformers, or to a module that holds one; "
            f"got {_describe(model)}"
        )
    return [_stages(encoder) for encoder in encoders]


def has_encoder(model: nn.Module) -> bool:
    """Whether a model has a SegFormer encoder of `transformers` in it."""
    return any(map(_is_encoder, model.modules()))


def _is_encoder(module: nn.Module) -> bool:
    return any(cls.__name__ == ENCODER for cls in type(module).__mro__)


def layout_of(attention: nn.Module) -> type[SegformerAttention]:
    """The mixin that fits an attention module.

    Raises:
        ModelError: None does.
    """
    for mixin in (FlatAttention, NestedAttention):
        if all(_has(attention, name) for name in mixin.NEEDS):
            return mixin
    raise ModelError(
        f"the layers of this {type(attention).__name__} are not those of the SegFormer in "
        f"transformers {KNOWN}"
    )


def _stages(encoder: nn.Module) -> list[Stage]:
    if _has(encoder, "stages"):
        return [Stage([b.attention for b in s.blocks], s) for s in encoder.stages]
    if _has(encoder, "encoder.block"):
        inner = encoder.encoder
        return [Stage([b.attention for b in blocks], inner) for blocks in inner.block]
    raise ModelError(
        f"this {type(encoder).__name__} has no stages as the SegFormer in transformers {KNOWN} has"
    )


def _has(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute, or attributes within attributes: `a.b.c`."""
    try:
        attrgetter(name)(module)
    except AttributeError:
        return False
    return True


def _describe(model) -> str:
    return model.__name__ if isinstance(model, type) else f"a {type(model).__name__}"
