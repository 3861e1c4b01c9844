"""Hugging Face's SegFormer (`nvidia/segformer-*`, `nvidia/mit-b*`), in both directions.

The files on the hub have the names of `transformers` 4, which all versions load. Version 5 names
parameters differently in memory; files saved under those names are read as well.
"""

import re
from collections.abc import Sequence

import torch

from mmseg_tome.checkpoints.architecture import COUNTERS
from mmseg_tome.checkpoints.checkpoint import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Checkpoint,
    Source,
    build_checkpoint,
)
from mmseg_tome.checkpoints.formats.base import DROPPED, Format, register_format
from mmseg_tome.checkpoints.tensors import (
    HUGGING_FACE,
    NormEps,
    Renaming,
    State,
    change_eps,
    join_projections,
    linear_to_pointwise,
    pointwise_to_linear,
    reverse_levels,
    split_projections,
)
from mmseg_tome.errors import ConversionError

PREPROCESSOR = "preprocessor_config.json"

_OURS, _BLOCK = "backbone.layers.{i}", "backbone.layers.{i}.1.{j}"
_4, _BLOCK_4 = "segformer.encoder", "segformer.encoder.block.{i}.{j}"
_5, _BLOCK_5 = "segformer.stages.{i}", "segformer.stages.{i}.blocks.{j}"
_SR_5 = f"{_BLOCK_5}.attention.sequence_reduction"
_PATCH_4 = f"{_4}.patch_embeddings.{{i}}"
_HEAD = "decode_head"
TABLE = [
    (f"{_OURS}.0.projection", f"{_PATCH_4}.proj", f"{_5}.patch_embeddings.proj"),
    (f"{_OURS}.0.norm", f"{_PATCH_4}.layer_norm", f"{_5}.patch_embeddings.layer_norm"),
    (f"{_BLOCK}.norm1", f"{_BLOCK_4}.layer_norm_1", f"{_BLOCK_5}.layernorm_before"),
    (f"{_BLOCK}.attn.attn.q", f"{_BLOCK_4}.attention.self.query", f"{_BLOCK_5}.attention.q_proj"),
    (f"{_BLOCK}.attn.attn.k", f"{_BLOCK_4}.attention.self.key", f"{_BLOCK_5}.attention.k_proj"),
    (f"{_BLOCK}.attn.attn.v", f"{_BLOCK_4}.attention.self.value", f"{_BLOCK_5}.attention.v_proj"),
    (
        f"{_BLOCK}.attn.attn.out_proj",
        f"{_BLOCK_4}.attention.output.dense",
        f"{_BLOCK_5}.attention.o_proj",
    ),
    (f"{_BLOCK}.attn.sr", f"{_BLOCK_4}.attention.self.sr", f"{_SR_5}.sequence_reduction"),
    (f"{_BLOCK}.attn.norm", f"{_BLOCK_4}.attention.self.layer_norm", f"{_SR_5}.layer_norm"),
    (f"{_BLOCK}.norm2", f"{_BLOCK_4}.layer_norm_2", f"{_BLOCK_5}.layernorm_after"),
    (f"{_BLOCK}.ffn.layers.0", f"{_BLOCK_4}.mlp.dense1", f"{_BLOCK_5}.mlp.fc1"),
    (f"{_BLOCK}.ffn.layers.1", *[f"{block}.mlp.dwconv.dwconv" for block in (_BLOCK_4, _BLOCK_5)]),
    (f"{_BLOCK}.ffn.layers.4", f"{_BLOCK_4}.mlp.dense2", f"{_BLOCK_5}.mlp.fc2"),
    (f"{_OURS}.2", f"{_4}.layer_norm.{{i}}", f"{_5}.layer_norm"),
    (
        f"{_HEAD}.convs.{{i}}.conv",
        f"{_HEAD}.linear_c.{{i}}.proj",
        f"{_HEAD}.linear_projections.{{i}}.proj",
    ),
    (f"{_HEAD}.fusion_conv.conv", *[f"{_HEAD}.linear_fuse"] * 2),
    (f"{_HEAD}.fusion_conv.bn", *[f"{_HEAD}.batch_norm"] * 2),
    (f"{_HEAD}.conv_seg", *[f"{_HEAD}.classifier"] * 2),
]
"""Our names; those in files; those in memory since version 5."""

RENAMING = Renaming([(ours, in_files) for ours, in_files, _ in TABLE])
RENAMING_5 = Renaming([(ours, in_memory) for ours, _, in_memory in TABLE])

UNUSED = re.compile(r"classifier\.(weight|bias)")
"""ImageNet's classifier."""


@register_format
class HuggingFace(Format):
    name = "huggingface"
    title = "Hugging Face transformers"

    def our_key(self, key: str) -> str | None:
        if UNUSED.fullmatch(key):
            return DROPPED
        if key.startswith(("encoder.", "stages.")):  # saved from `SegformerModel`
            key = f"segformer.{key}"
        return RENAMING.to_ours(key) or RENAMING_5.to_ours(key)

    def convert(self, source: Source) -> Checkpoint:
        config = source.config
        check_config(config)
        state, dropped = self.rename(source.state)
        checkpoint = build_checkpoint(
            from_hugging_face(state),
            num_heads=config.get("num_attention_heads"),
            strides=config.get("strides"),
            origin=self.title,
            norm_eps=HUGGING_FACE.blocks,
            # Of a backbone's own file, they are ImageNet's.
            classes=_classes(config) if any(k.startswith("decode_head.") for k in state) else None,
            dropped=dropped,
            input_size=_input_size(source.preprocessor),
            **_normalisation(source.preprocessor, config.get("num_channels", 3)),
        )
        _compare(config, checkpoint)
        return checkpoint


def from_hugging_face(state: State) -> State:
    """Cut parameters, which go by our names, as we do."""
    return reverse_levels(linear_to_pointwise(join_projections(state)))


def to_hugging_face(checkpoint: Checkpoint) -> State:
    """A checkpoint's parameters as `transformers` names, cuts and normalises them.

    Raises:
        ConversionError: There is no equal model in `transformers`.
    """
    if checkpoint.task == "pose":
        raise ConversionError("transformers has no SegFormer for pose; its backbone can be written")
    if checkpoint.head and not checkpoint.head.linear:
        raise ConversionError(
            "its head has a norm and a ReLU behind each level's projection, as mmseg's has; "
            "transformers' head has neither, so that no equal model exists there. Its backbone can "
            "be written"
        )
    if not checkpoint.architecture.qkv_bias:
        raise ConversionError("transformers' attention has biases, this checkpoint's has none")
    eps = NormEps(checkpoint.norm_eps, checkpoint.norm_eps)
    state = change_eps(checkpoint.state, eps, HUGGING_FACE)
    state = split_projections(pointwise_to_linear(reverse_levels(state)))
    theirs = {RENAMING.to_theirs(key): value.contiguous() for key, value in state.items()}
    if checkpoint.head is None:
        return {key.removeprefix("segformer."): value for key, value in theirs.items()}
    theirs.setdefault(f"decode_head.batch_norm.{COUNTERS}", torch.tensor(0))
    return theirs


def make_config(checkpoint: Checkpoint) -> dict:
    """`config.json` of a checkpoint."""
    arch, head = checkpoint.architecture, checkpoint.head
    stages = len(arch.channels)
    config = dict(
        architectures=["SegformerForSemanticSegmentation" if head else "SegformerModel"],
        model_type="segformer",
        num_channels=arch.in_channels,
        num_encoder_blocks=stages,
        depths=list(arch.num_layers),
        sr_ratios=list(arch.sr_ratios),
        hidden_sizes=list(arch.channels),
        patch_sizes=list(arch.patch_sizes),
        strides=list(arch.strides),
        num_attention_heads=list(arch.num_heads),
        mlp_ratios=[arch.mlp_ratio] * stages,
        hidden_act="gelu",
        torch_dtype=str(next(iter(checkpoint.state.values())).dtype).removeprefix("torch."),
    )
    if head:
        names = checkpoint.classes or [f"LABEL_{i}" for i in range(head.outputs)]
        config.update(
            decoder_hidden_size=head.channels,
            id2label={str(i): name for i, name in enumerate(names)},
            label2id={name: i for i, name in enumerate(names)},
        )
    return config


def make_preprocessor(checkpoint: Checkpoint) -> dict:
    """`preprocessor_config.json` of a checkpoint.

    Images keep their size, as in our whole tests, unless the checkpoint knows of another.
    """
    size = checkpoint.input_size
    return dict(
        image_processor_type="SegformerImageProcessor",
        **(dict(do_resize=True, size=dict(zip(SIDES, size, strict=True))) if size else {}),
        **({} if size else dict(do_resize=False)),
        **_normalising(checkpoint),
    )


def _normalising(checkpoint: Checkpoint) -> dict:
    known = checkpoint.normalisation()
    if known is None:  # of other channels than three nothing may be known
        return dict(do_rescale=False, do_normalize=False)
    mean, std = ([value / 255 for value in values] for values in known)
    return dict(
        do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=mean, image_std=std
    )


def check_config(config: dict) -> None:
    """Raise ConversionError if a `config.json` describes a model that is not supported."""
    if config.get("model_type", "segformer") != "segformer":
        raise ConversionError(f"config.json describes a {config['model_type']}, not a segformer")
    if config.get("hidden_act", "gelu") != "gelu":
        raise ConversionError(f"config.json has hidden_act {config['hidden_act']!r}, not 'gelu'")


def _compare(config: dict, checkpoint: Checkpoint) -> None:
    """Raise ConversionError if weights are not those that `config.json` describes."""
    described = make_config(checkpoint)
    names = ("depths", "hidden_sizes", "sr_ratios", "patch_sizes", "mlp_ratios", "num_channels")
    for name in (*names, "decoder_hidden_size"):
        if name in config and name in described and _plain(config[name]) != described[name]:
            raise ConversionError(
                f"config.json has {name} {config[name]}, its weights have {described[name]}"
            )


def _plain(value):
    return list(value) if isinstance(value, Sequence) else value


def _classes(config: dict) -> tuple[str, ...] | None:
    """Names of the classes in order; None where `config.json` has only placeholders."""
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not labels:
        return None
    try:
        names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    except ValueError:
        raise ConversionError("id2label of config.json has keys that are no numbers") from None
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None
    return names


def _normalisation(preprocessor: dict, channels: int) -> dict:
    """`mean` and `std` of 0 to 255 images; none without a `preprocessor_config.json`.

    One value is for all channels.

    Raises:
        ConversionError: They are no numbers.
    """
    if not preprocessor:
        return {}
    mean = preprocessor.get("image_mean") or [value / 255 for value in IMAGENET_MEAN]
    std = preprocessor.get("image_std") or [value / 255 for value in IMAGENET_STD]
    if not preprocessor.get("do_normalize", True):
        mean, std = 0.0, 1.0
    factor = preprocessor.get("rescale_factor", 1 / 255)
    factor = factor if preprocessor.get("do_rescale", True) else 1.0
    try:
        return {
            name: tuple(round(value / factor, 6) for value in _each(values, channels))
            for name, values in (("mean", mean), ("std", std))
        }
    except (TypeError, ZeroDivisionError):
        raise ConversionError(
            f"{PREPROCESSOR} has image_mean {mean}, image_std {std} and rescale_factor {factor}"
        ) from None


def _each(values: float | Sequence[float], channels: int) -> Sequence[float]:
    values = [values] if isinstance(values, (int, float)) else values
    return list(values) * channels if len(values) == 1 else values


SIDES = ("height", "width")


def _input_size(preprocessor: dict) -> tuple[int, int] | None:
    """Height and width that a `preprocessor_config.json` brings images to.

    Raises:
        ConversionError: It says so in a way that is not known.
    """
    size = preprocessor.get("size")
    if size is None or not preprocessor.get("do_resize", True):
        return None
    found = size
    if isinstance(size, dict):
        found = [size.get(side) for side in SIDES]
    elif isinstance(size, int):
        found = [size, size]
    if (
        isinstance(found, list)
        and len(found) == 2
        and all(type(side) is int and side > 0 for side in found)
    ):
        return tuple(found)
    raise ConversionError(f"{PREPROCESSOR} has the size {size}, not a height and a width")
