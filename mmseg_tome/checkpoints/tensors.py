"""The same weights in the tensors of other code bases, and back.

Our attention has one `in_proj` of queries, keys and values (as `nn.MultiheadAttention` does) where
others have a linear layer each, or one for keys and values; our MixFFN and our head have 1x1
convolutions where others have linear layers. In between, parameters go by our names with `q`,
`k`, `v` or `q`, `kv` in place of `in_proj`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_tome.errors import ConversionError

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


class Renaming:
    """A table of module names, ours and theirs.

    Names are templates: `{i}` is a stage counted from 0, `{n}` the same counted from 1, and `{j}` a
    block of the stage. What follows the module's name (`.weight`, `.running_mean`, ...) stays.

    Args:
        table: Pairs of our and their template.
    """

    def __init__(self, table: Sequence[tuple[str, str]]):
        self._to_ours = [(_pattern(theirs), ours) for ours, theirs in table]
        self._to_theirs = [(_pattern(ours), theirs) for ours, theirs in table]

    def to_ours(self, key: str) -> str | None:
        """Our name of their parameter, or None."""
        return _rename(self._to_ours, key)

    def to_theirs(self, key: str) -> str | None:
        """Their name of our parameter, or None."""
        return _rename(self._to_theirs, key)


def _pattern(template: str) -> re.Pattern:
    escaped = re.sub(r"\\{([inj])\\}", r"(?P<\1>\\d+)", re.escape(template))
    return re.compile(rf"{escaped}\.(?P<leaf>[a-z_]+)")


def _rename(rules: list[tuple[re.Pattern, str]], key: str) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(key):
            found = match.groupdict()
            stage = int(found["i"]) if "i" in found else int(found.get("n") or 1) - 1
            return f"{template.format(i=stage, n=stage + 1, j=found.get('j'))}.{found['leaf']}"
    return None


@dataclass(frozen=True)
class NormEps:
    """Epsilons of a backbone's layer norms. Code bases differ, and no checkpoint says which:

    | | patch embeddings, spatial reductions | blocks, outputs |
    |---|---|---|
    | NVlabs | 1e-5 | 1e-6 |
    | Hugging Face, whatever its `layer_norm_eps` says | 1e-5 | 1e-5 |
    | mmseg, and here by default | 1e-6 | 1e-6 |

    Attributes:
        stem: After convolutions: patch embeddings and spatial reductions.
        blocks: On the residual stream: in blocks and before outputs.
    """

    stem: float
    blocks: float


NVLABS = NormEps(stem=1e-5, blocks=1e-6)
HUGGING_FACE = NormEps(stem=1e-5, blocks=1e-5)
DEFAULT = 1e-6
"""What ours and mmseg's layer norms have unless a config says otherwise."""

# The convolutions right before a norm.
BEFORE_NORM = re.compile(r"backbone\.layers\.\d+\.(0\.projection|1\.\d+\.attn\.sr)\.(weight|bias)")
# All that is added to a stage's residual stream; it is only ever read through a norm.
INTO_STREAM = re.compile(
    r"backbone\.layers\.\d+\."
    r"(0\.norm|1\.\d+\.attn\.attn\.out_proj|1\.\d+\.ffn\.layers\.4)\.(weight|bias)"
)


def change_eps(state: State, have: NormEps, want: NormEps) -> State:
    """Scale weights made for the epsilons `have` so that with `want` they give the same outputs.

    It matters wherever features have a small variance. A layer norm of s * x with epsilon s^2 * e
    is one of x with epsilon e, so that weights can make up for it exactly, to rounding.
    """
    stem, stream = (want.stem / have.stem) ** 0.5, (want.blocks / have.blocks) ** 0.5

    def scaled(key: str, value: Tensor) -> Tensor:
        factor = stem if BEFORE_NORM.fullmatch(key) else 1.0
        factor = stream if INTO_STREAM.fullmatch(key) else factor
        return value if factor == 1 else (value.double() * factor).to(value.dtype)

    return {key: scaled(key, value) for key, value in state.items()}
