"""Whether a checkpoint fits a model."""

from torch import Tensor, nn

from mmseg_tome.checkpoints.wrappers import find_parameters, fitting_names
from mmseg_tome.errors import CheckpointError

NAMED = 3
"""How many differing parameters a message names."""


def fitting_state(model: nn.Module, checkpoint: dict, name: str) -> dict[str, Tensor]:
    """The parameters in a checkpoint, by the names that the model has for them.

    Raises:
        CheckpointError: It has none.
    """
    state = find_parameters(checkpoint)
    if state is None and checkpoint.get("state_dict") == {}:  # an exported model keeps its own
        state = {}
    if state is None:
        inside = ", ".join(map(str, list(checkpoint)[:NAMED])) if checkpoint else "nothing"
        raise CheckpointError(
            f"{name} is not a checkpoint: it has no weights by name, but {inside}"
        )
    return fitting_names(state, wanted(model))


def wanted(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint must hold, by name."""
    return {
        name.removeprefix("module."): value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def mismatch(model: nn.Module, checkpoint: dict) -> str | None:
    """Say in one line how a checkpoint's parameters differ from the model's, or None."""
    state = checkpoint.get("state_dict", checkpoint)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    expected = wanted(model)
    shapes = {
        name: (tuple(state[name].shape), tuple(value.shape))
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    }
    missing = [name for name in expected if name not in state]
    classes = [(name, *pair) for name, pair in shapes.items() if "conv_seg.weight" in name]
    if classes and all("conv_seg" in name for name in shapes) and not missing:
        name, (have, *_), (want, *_) = classes[0]
        return f"it has {have} classes, the model has {want} ({name})"
    if shapes:
        differing = [f"{name} is {have}, not {want}" for name, (have, want) in shapes.items()]
        return f"{len(shapes)} parameters have other shapes: {_some(differing)}"
    if missing:
        return f"it lacks {len(missing)} of {len(expected)} parameters: {_some(missing)}"
    return None


def _some(items: list[str]) -> str:
    return ", ".join(items[:NAMED]) + (", ..." if len(items) > NAMED else "")
