"""What a state dict says of the model it was saved from, and whether it holds all of it."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmseg_tome.errors import ConversionError, some
from mmseg_tome.nets.segformer import VARIANTS

BACKBONE, DECODE_HEAD, POSE_HEAD = "backbone.", "decode_head.", "head."
COUNTERS = "num_batches_tracked"
"""Steps a batch norm has seen: saved or not, outputs do not depend on it."""


@dataclass(frozen=True)
class Architecture:
    """The arguments of `mmseg_tome.MixVisionTransformer` that decide on shapes and outputs."""

    in_channels: int
    embed_dims: int
    num_layers: tuple[int, ...]
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratio: int = 4
    qkv_bias: bool = True

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dims * heads for heads in self.num_heads)

    @property
    def variant(self) -> str | None:
        """`b0` to `b5`, or None for a backbone of another size."""
        for name, (embed_dims, num_layers) in VARIANTS.items():
            if self == Architecture(self.in_channels, embed_dims, num_layers):
                return name
        return None

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each parameter of the backbone."""
        before = self.in_channels
        for i, channels in enumerate(self.channels):
            stage, patch, sr = f"{BACKBONE}layers.{i}", self.patch_sizes[i], self.sr_ratios[i]
            yield from _layer(f"{stage}.0.projection", channels, before, patch, patch)
            yield from _layer(f"{stage}.0.norm", channels)
            for j in range(self.num_layers[i]):
                block, hidden = f"{stage}.1.{j}", channels * self.mlp_ratio
                yield from _layer(f"{block}.norm1", channels)
                yield f"{block}.attn.attn.in_proj_weight", (3 * channels, channels)
                if self.qkv_bias:
                    yield f"{block}.attn.attn.in_proj_bias", (3 * channels,)
                out_proj = dict(_layer(f"{block}.attn.attn.out_proj", channels, channels))
                if not self.qkv_bias:
                    out_proj.popitem()
                yield from out_proj.items()
                if sr > 1:
                    yield from _layer(f"{block}.attn.sr", channels, channels, sr, sr)
                    yield from _layer(f"{block}.attn.norm", channels)
                yield from _layer(f"{block}.norm2", channels)
                yield from _layer(f"{block}.ffn.layers.0", hidden, channels, 1, 1)
                yield from _layer(f"{block}.ffn.layers.1", hidden, 1, 3, 3)
                yield from _layer(f"{block}.ffn.layers.4", channels, hidden, 1, 1)
            yield from _layer(f"{stage}.2", channels)
            before = channels


@dataclass(frozen=True)
class Head:
    """An all-MLP head.

    Attributes:
        task: `segmentation` or `pose`.
        linear: Whether levels are projected linearly (NVlabs, Hugging Face) or with a norm and a
            ReLU (mmseg and here).
        channels: Channels that levels are projected to and fused in.
        outputs: Number of classes or keypoints.
    """

    task: str
    linear: bool
    channels: int
    outputs: int

    def shapes(self, levels: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each parameter, for levels of these channels."""
        prefix, last = HEADS[self.task]
        for i, level in enumerate(levels):
            conv = dict(_layer(f"{prefix}convs.{i}.conv", self.channels, level, 1, 1))
            if not self.linear:
                conv.popitem()  # the norm has the bias
                yield from _batch_norm(f"{prefix}convs.{i}.bn", self.channels)
            yield from conv.items()
        fused = self.channels * len(levels)
        yield f"{prefix}fusion_conv.conv.weight", (self.channels, fused, 1, 1)
        yield from _batch_norm(f"{prefix}fusion_conv.bn", self.channels)
        yield from _layer(f"{prefix}{last}", self.outputs, self.channels, 1, 1)


HEADS = {"segmentation": (DECODE_HEAD, "conv_seg"), "pose": (POSE_HEAD, "final_layer")}
"""Prefix and last layer of each task's head."""


def _layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _batch_norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{leaf}", (channels,)


def read_architecture(
    state: dict[str, Tensor],
    num_heads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Architecture:
    """Read a backbone's architecture from its parameters, which go by our names.

    Args:
        state: The parameters.
        num_heads: Attention heads of each stage, which no shape shows; by default as many as the
            stage's channels are of the first one's, as in every MiT.
        strides: Strides of the patch embeddings, which no shape shows either.

    Raises:
        ConversionError: A parameter that tells is missing, or it is no MixVisionTransformer as this
            package has it.
    """
    blocks: dict[int, set[int]] = {}
    for key in state:
        if match := re.match(rf"{BACKBONE}layers\.(\d+)\.1\.(\d+)\.", key):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    stages = range(len(blocks))
    if not stages or sorted(blocks) != list(stages):
        raise ConversionError(f"it has blocks of the stages {sorted(blocks)} only, not of all")
    for i in stages:  # before anything is counted up to a number that the file gives
        if max(blocks[i]) >= len(blocks[i]):
            raise ConversionError(
                f"stage {i} has {len(blocks[i])} blocks, one of them number {max(blocks[i])}"
            )

    def shape(key: str, dims: int) -> tuple[int, ...]:
        if f"{BACKBONE}{key}" not in state:
            raise ConversionError(f"it lacks {BACKBONE}{key}")
        found = tuple(state[f"{BACKBONE}{key}"].shape)
        if len(found) != dims:
            raise ConversionError(f"{BACKBONE}{key} has {len(found)} dimensions, not {dims}")
        return found

    projections = [shape(f"layers.{i}.0.projection.weight", 4) for i in stages]
    channels = [projection[0] for projection in projections]
    heads = list(num_heads or (c // channels[0] for c in channels))
    ratios = [heads[0] * c for c in channels], [channels[0] * h for h in heads]
    if len(heads) != len(channels) or min(heads) < 1 or ratios[0] != ratios[1]:
        raise ConversionError(
            f"stages of {channels} channels with {heads} attention heads are not supported: heads "
            "must be of the same size in all stages"
        )
    has_sr = [f"{BACKBONE}layers.{i}.1.0.attn.sr.weight" in state for i in stages]
    sr_ratios = [shape(f"layers.{i}.1.0.attn.sr.weight", 4)[2] if has_sr[i] else 1 for i in stages]
    strides = tuple(strides or (4, *[2] * (len(stages) - 1)))
    if len(strides) != len(stages):
        raise ConversionError(f"there are {len(strides)} strides for {len(stages)} stages")
    return Architecture(
        in_channels=projections[0][1],
        embed_dims=channels[0] // heads[0],
        num_layers=tuple(max(blocks[i]) + 1 for i in stages),
        num_heads=tuple(heads),
        patch_sizes=tuple(projection[2] for projection in projections),
        strides=strides,
        sr_ratios=tuple(sr_ratios),
        mlp_ratio=shape("layers.0.1.0.ffn.layers.0.weight", 4)[0] // channels[0],
        qkv_bias=f"{BACKBONE}layers.0.1.0.attn.attn.in_proj_bias" in state,
    )


def read_head(state: dict[str, Tensor]) -> Head | None:
    """Read a head from its parameters, which go by our names; None if there is none.

    Raises:
        ConversionError: A parameter that tells is missing.
    """
    for task, (prefix, last) in HEADS.items():
        if not any(key.startswith(prefix) for key in state):
            continue
        keys = [f"{prefix}fusion_conv.conv.weight", f"{prefix}{last}.weight"]
        if missing := [key for key in keys if key not in state]:
            raise ConversionError(f"it lacks {missing[0]}")
        fusion, classifier = (state[key] for key in keys)
        linear = f"{prefix}convs.0.bn.weight" not in state
        return Head(task, linear, fusion.shape[0], classifier.shape[0])
    return None


def check_whole(state: dict[str, Tensor], architecture: Architecture, head: Head | None) -> None:
    """Compare a state dict with all that its model needs.

    Raises:
        ConversionError: Parameters are missing, too many, or of another shape.
    """
    wanted = dict(architecture.shapes())
    if head is not None:
        wanted.update(head.shapes(architecture.channels))
    if problem := differing(state, wanted) or surplus(state, wanted):
        raise ConversionError(problem)


def differing(state: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]]) -> str | None:
    """How a state dict differs from the shapes that are wanted by name, in one line, or None."""
    shapes = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != tuple(shape)
    ]
    if shapes:
        return f"{len(shapes)} parameters have other shapes: {some(shapes)}"
    missing = [name for name in wanted if name not in state]
    if missing:
        return f"it lacks {len(missing)} of {len(wanted)} parameters: {some(missing)}"
    return None


def surplus(state: Iterable[str], wanted: Container[str]) -> str | None:
    """The parameters of a state dict that are not wanted, in one line, or None."""
    names = [name for name in state if name not in wanted and not name.endswith(COUNTERS)]
    return f"{len(names)} parameters are not of this model: {some(names)}" if names else None
