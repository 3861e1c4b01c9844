"""What a checkpoint holds, whether that fits a model, and loading it. Torch alone."""

from collections.abc import Mapping

from torch import Tensor, nn

from mmseg_tome.checkpoints.architecture import (
    BACKBONE,
    COUNTERS,
    DECODE_HEAD,
    POSE_HEAD,
    differing,
)
from mmseg_tome.checkpoints.checkpoint import Source
from mmseg_tome.checkpoints.formats.base import recognise
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
