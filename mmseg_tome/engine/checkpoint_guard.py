"""A hook that looks at a checkpoint before it goes into the model."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmseg_tome.engine.checkpoint import trusts_checkpoints
from mmseg_tome.engine.errors import CheckpointError
from mmseg_tome.registry import HOOKS

NAMED = 3
"""How many differing parameters a message names."""


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Refuse checkpoints that do not fit the model, and never run a checkpoint's config.

    mmengine loads what fits and only warns about the rest, so that a checkpoint of another data
    set or model is tested with random weights. Testing and resuming must fit in full; training
    may start from weights that fit in part (fine-tuning on other classes), which is logged.

    mmengine also executes, as Python, the config text that a resumed checkpoint carries, to
    compare a number of GPUs. That text is removed first.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check `checkpoint` against the runner's model.

        Raises:
            CheckpointError: It does not fit and is to be tested or resumed.
        """
        if not trusts_checkpoints() and isinstance(checkpoint.get("meta"), dict):
            checkpoint["meta"].pop("config", None)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        problem = mismatch(model, checkpoint)
        if problem is None:
            return
        training = isinstance(runner._train_loop, BaseLoop)
        if training and not runner._resume:
            runner.logger.warning(f"{runner._load_from} fits the model in part: {problem}")
        else:
            raise CheckpointError(f"{runner._load_from} does not fit the model: {problem}")


def mismatch(model: nn.Module, checkpoint: dict) -> str | None:
    """Say in one line how a checkpoint's parameters differ from the model's, or None."""
    state = checkpoint.get("state_dict", checkpoint)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    wanted = {
        name.removeprefix("module."): value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    shapes = {
        name: (tuple(state[name].shape), tuple(value.shape))
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    }
    missing = [name for name in wanted if name not in state]
    classes = [(name, *pair) for name, pair in shapes.items() if "conv_seg.weight" in name]
    if classes and all("conv_seg" in name for name in shapes) and not missing:
        name, (have, *_), (want, *_) = classes[0]
        return f"it has {have} classes, the model has {want} ({name})"
    if shapes:
        differing = [f"{name} is {have}, not {want}" for name, (have, want) in shapes.items()]
        return f"{len(shapes)} parameters have other shapes: {_some(differing)}"
    if missing:
        return f"it lacks {len(missing)} of {len(wanted)} parameters: {_some(missing)}"
    return None


def _some(items: list[str]) -> str:
    return ", ".join(items[:NAMED]) + (", ..." if len(items) > NAMED else "")
