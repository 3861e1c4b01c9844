"""A hook that looks at a checkpoint before it goes into the model."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from mmseg_tome.checkpoints.fitting import fitting_state, holding, mismatch, wanted
from mmseg_tome.checkpoints.loading import trusts_checkpoints
from mmseg_tome.engine.optimizer_state import adapt_optimizer_state
from mmseg_tome.errors import CheckpointError
from mmseg_tome.registry import HOOKS


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
        some_fit = any(name in state for name in wanted(model))
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
