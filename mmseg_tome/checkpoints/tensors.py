"""How the same numbers are cut into tensors here and elsewhere.

Our attention has one `in_proj` of queries, keys and values (as `nn.MultiheadAttention` does) where
others have a linear layer each, or one for keys and values; our MixFFN and our head have 1x1
convolutions where others have linear layers. In between, parameters go by our names with `q`,
`k`, `v` or `q`, `kv` in place of `in_proj`.
"""

import re

import torch
from torch import Tensor

from mmseg_tome.checkpoints.errors import ConversionError

State = dict[str, Tensor]

POINTWISE = re.compile(
    r"backbone\.layers\.\d+\.1\.\d+\.ffn\.layers\.[04]\.weight|decode_head\.convs\.\d+\.conv\.weight"
)
"""Our 1x1 convolutions that are linear layers elsewhere."""

PART = re.compile(r"(.+\.attn\.attn)\.(q|k|v|kv)\.(weight|bias)")
JOINED = re.compile(r"(.+\.attn\.attn)\.in_proj_(weight|bias)")


def join_projections(state: State) -> State:
    """Put the parts of each attention's input projection together.

    Raises:
        ConversionError: A part is missing.
    """
    parts: dict[str, State] = {}
    joined = {}
    for key, value in state.items():
        if match := PART.fullmatch(key):
            prefix, part, leaf = match.groups()
            parts.setdefault(f"{prefix}.in_proj_{leaf}", {})[part] = value
        else:
            joined[key] = value
    for key, values in parts.items():
        order = ("q", "kv") if "kv" in values else ("q", "k", "v")
        if missing := [part for part in order if part not in values]:
            raise ConversionError(f"it lacks the {missing[0]} projection of {key}")
        joined[key] = torch.cat([values[part] for part in order])
    return joined


def split_projections(state: State) -> State:
    """The inverse of `join_projections`, with a layer each for queries, keys and values."""
    split = {}
    for key, value in state.items():
        if match := JOINED.fullmatch(key):
            prefix, leaf = match.groups()
            parts = zip("qkv", value.chunk(3), strict=True)
            split.update({f"{prefix}.{part}.{leaf}": tensor for part, tensor in parts})
        else:
            split[key] = value
    return split


def linear_to_pointwise(state: State) -> State:
    """`[out, in] -> [out, in, 1, 1]` where we have 1x1 convolutions."""
    return {
        key: value[:, :, None, None] if POINTWISE.fullmatch(key) and value.ndim == 2 else value
        for key, value in state.items()
    }


def pointwise_to_linear(state: State) -> State:
    """The inverse of `linear_to_pointwise`."""
    return {
        key: value.flatten(1) if POINTWISE.fullmatch(key) else value for key, value in state.items()
    }


def reverse_levels(state: State) -> State:
    """Reverse the order in which the head concatenates its levels; its own inverse.

    Ours and mmseg's begin with the finest level, NVlabs' and Hugging Face's with the coarsest.
    """
    key = "decode_head.fusion_conv.conv.weight"  # [channels, levels * channels, 1, 1]
    if key not in state:
        return state
    weight = state[key]
    levels = weight.shape[1] // weight.shape[0] or 1
    return {**state, key: torch.cat(weight.chunk(levels, dim=1)[::-1], dim=1)}
