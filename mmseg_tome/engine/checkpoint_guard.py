"""A hook that looks at a checkpoint before it goes into the model."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from mmseg_tome.checkpoints.holding import holding
from mmseg_tome.checkpoints.wrappers import find_parameters, fitting_names
from mmseg_tome.engine.checkpoint import trusts_checkpoints
from mmseg_tome.engine.optimizer_state import adapt_optimizer_state
from mmseg_tome.errors import CheckpointError
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

    The optimizer's state that training resumes from is brought to the groups of this run.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check `checkpoint` against the runner's model, and its optimizer if training resumes.

        Raises:
            CheckpointError: It does not fit and is to be tested or resumed.
        """
        if not trusts_checkpoints() and isinstance(checkpoint.get("meta"), dict):
            checkpoint["meta"].pop("config", None)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        file = runner._load_from or "the latest checkpoint"
        state = fitting_state(model, checkpoint, file)
        if state is not checkpoint:
            checkpoint["state_dict"] = state
        problem = mismatch(model, state)
        training = isinstance(runner._train_loop, BaseLoop)
        some_fit = any(name in state for name in _wanted(model))
        if problem and training and not runner._resume and some_fit:
            runner.logger.warning(f"{file} fits the model in part: {problem}")
        elif problem:
            end = holding(state, file)
            raise CheckpointError(f"{file} does not fit the model: {problem}{end}")
        elif training and runner._resume:
            try:
                adapt_optimizer_state(checkpoint, runner.optim_wrapper)
            except CheckpointError as error:
                raise CheckpointError(f"{file} cannot be resumed: {error}") from None


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
    return fitting_names(state, _wanted(model))


def _wanted(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def mismatch(model: nn.Module, checkpoint: dict) -> str | None:
    """Say in one line how a checkpoint's parameters differ from the model's, or None."""
    state = checkpoint.get("state_dict", checkpoint)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    wanted = _wanted(model)
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
