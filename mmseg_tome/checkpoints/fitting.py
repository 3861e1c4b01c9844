"""Whether a checkpoint fits a model, and loading it. Torch alone.

`load_weights` is for models of `mmseg_tome.create_model` and reads every known format; `load_state`
is for any model whose names the checkpoint has.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mmseg_tome.checkpoints.architecture import (
    BACKBONE,
    COUNTERS,
    DECODE_HEAD,
    POSE_HEAD,
    differing,
    surplus,
)
from mmseg_tome.checkpoints.checkpoint import Source
from mmseg_tome.checkpoints.formats.base import convert, recognise
from mmseg_tome.checkpoints.loading import load_from_local
from mmseg_tome.checkpoints.reading import read_source
from mmseg_tome.checkpoints.wrappers import find_parameters, fitting_names, plain_names
from mmseg_tome.errors import CheckpointError, ConversionError, some


def fitting_state(model: nn.Module, checkpoint: dict, name: str) -> dict[str, Tensor]:
    """The parameters in a checkpoint, by the names that the model has for them.

    Raises:
        CheckpointError: It has none.
    """
    state = find_parameters(checkpoint)
    if state is None and checkpoint.get("state_dict") == {}:  # an exported model keeps its own
        state = {}
    if state is None:
        inside = some(map(str, checkpoint)) or "nothing"
        raise CheckpointError(
            f"{name} is not a checkpoint: it has no weights by name, but {inside}"
        )
    return fitting_names(state, wanted(model))


def wanted(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint must hold, by name."""
    return {
        name.removeprefix("module."): value
        for name, value in model.state_dict().items()
        if not name.endswith(COUNTERS)
    }


def mismatch(model: nn.Module, checkpoint: dict) -> str | None:
    """Say in one line how a checkpoint's parameters differ from the model's, or None."""
    state = checkpoint.get("state_dict", checkpoint)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    expected = {name: value.shape for name, value in wanted(model).items()}
    classifiers = [name for name in expected if name.endswith("conv_seg.weight")]
    others = {name: shape for name, shape in expected.items() if "conv_seg" not in name}
    if set(expected) <= set(state) and not differing(state, others):
        for name in classifiers:
            have, want = state[name].shape, expected[name]
            if have and have != want:
                return f"it has {have[0]} classes, the model has {want[0]} ({name})"
    return differing(state, expected)


def holding(state: Mapping[str, Tensor], name: str) -> str:
    """The end of a message about a checkpoint that does not fit; empty if nothing is known of it.

    Args:
        state: Its parameters.
        name: Its file.
    """
    plain = plain_names(state)
    try:
        found = recognise(Source(plain))
    except ConversionError:
        return ""
    if found.name != "mm":
        return (
            f". It is one of {found.title}: python tools/convert_checkpoint.py {name} "
            "converted.pth makes one that fits"
        )
    names = [found.our_key(key) or "" for key in plain]
    if not any(key.startswith((DECODE_HEAD, POSE_HEAD)) for key in names):
        prefixed = any(key.startswith(BACKBONE) for key in plain)
        where = ", prefix='backbone.'" if prefixed else ""
        return (
            ". It holds a backbone alone, from which a head can be trained: "
            f"model.backbone.init_cfg=dict(type='Pretrained', checkpoint='{name}'{where})"
        )
    return ""


def load_state(model: nn.Module, checkpoint: dict, name: str) -> dict:
    """Load a checkpoint that was read into a model that it must fit in full.

    Args:
        model: Gets the weights.
        checkpoint: As `loading.load` and mmengine's `CheckpointLoader` give it.
        name: What messages call it.

    Returns:
        The checkpoint's `meta`, empty if it has none.

    Raises:
        CheckpointError: It does not fit, or is no checkpoint.
    """
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{name} is not a checkpoint: it has no weights by name")
    state = fitting_state(model, checkpoint, name)
    if problem := mismatch(model, state):
        raise CheckpointError(f"{name} does not fit the model: {problem}{holding(state, name)}")
    model.load_state_dict(state, strict=False)  # it may hold more: of training, of other heads
    meta = checkpoint.get("meta")
    return meta if isinstance(meta, dict) else {}


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a file into a model of `mmseg_tome.create_model`.

    No code in the file runs, see `mmseg_tome.checkpoints.loading`.

    Args:
        model: Gets the weights, in place; is left as it was if they do not fit.
        path: A `.pth` or `.safetensors` file or a Hugging Face folder, of any format that
            `mmseg_tome.checkpoints` knows: mmseg's, mmpose's, ours, NVlabs', Hugging Face's. One
            of a backbone alone (ImageNet weights) goes into the model's backbone.

    Returns:
        The model.

    Raises:
        CheckpointError: The file cannot be read, wants to run code, or does not fit the model.
    """
    try:
        checkpoint = convert(read_source(str(path), load_from_local))
    except ConversionError as error:
        raise CheckpointError(f"{path}: {error}") from None
    state, target = checkpoint.state, model
    if checkpoint.head is None:
        target = model.backbone
        state = {name.removeprefix("backbone."): value for name, value in state.items()}
    if problem := mismatch(target, state) or surplus(state, target.state_dict()):
        linear = checkpoint.head is not None and checkpoint.head.linear
        hint = f", channels={checkpoint.head.channels}, linear=True" if linear else ""
        variant = checkpoint.architecture.variant or "a backbone of another size"
        raise CheckpointError(
            f"{path} does not fit the model: {problem}. It is {checkpoint.task} by {variant}{hint}"
        )
    target.load_state_dict(state, strict=False)  # counters of batch norms may be missing
    for module in model.backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = checkpoint.norm_eps  # no weight shows it
    return model
