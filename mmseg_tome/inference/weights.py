"""Loading a checkpoint into a model outside of a runner, whose hooks would check it."""

from torch import nn

from mmseg_tome.checkpoints.fitting import fitting_state, mismatch
from mmseg_tome.checkpoints.holding import holding
from mmseg_tome.errors import CheckpointError


def load_weights(model: nn.Module, checkpoint: dict, name: str) -> dict:
    """Put a checkpoint's weights into a model that it must fit in full.

    Args:
        model: Gets the weights.
        checkpoint: As mmengine's `CheckpointLoader` reads it.
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
