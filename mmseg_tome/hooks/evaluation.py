"""A test's reference without merging, and its metrics in a file."""

from collections.abc import Callable, Sequence

import mmengine
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner, autocast

from mmseg_tome.errors import UserError
from mmseg_tome.registry import HOOKS
from mmseg_tome.runtime.merging_switch import NothingMergesError, without_merging


@HOOKS.register_module()
class UnmergedReferenceHook(Hook):
    """Give `AgreementMetric` the predictions of the same model without merging.

    Every batch of a test or a validation runs twice, by the same weights and in the same precision:
    nothing is copied or loaded. A backbone that runs by the CUDA graphs of `FastInferenceHook` runs
    without them the second time, in half precision if that is what it has.

    Raises:
        UserError: The model merges nothing, or no `AgreementMetric` is there to use the reference
            (raised when the test begins).
    """

    def before_test(self, runner: Runner) -> None:
        """Hand the unmerged model to the test's metric."""
        self._connect(runner, runner.test_loop, "test_evaluator")

    def before_val(self, runner: Runner) -> None:
        """Hand the unmerged model to the validation's metric, if it has one."""
        self._connect(runner, runner.val_loop, None)

    def _connect(self, runner: Runner, loop, required: str | None) -> None:
        # Not every environment of the engine has mmseg, which the metrics need.
        from mmseg_tome.evaluation import AgreementMetric

        metrics = _metrics_of(loop.evaluator, AgreementMetric)
        if required and not metrics:
            raise UserError(
                "UnmergedReferenceHook has nothing to do: add "
                f"dict(type='mmseg_tome.AgreementMetric') to {required}, or leave the hook out"
            )
        if metrics:
            reference = unmerged_predictions(runner.model, getattr(loop, "fp16", False))
        for metric in metrics:
            metric.reference = reference


def unmerged_predictions(model: torch.nn.Module, fp16: bool) -> Callable[[dict], Sequence]:
    """A function from a data batch to the data samples that a model predicts without merging.

    Args:
        model: A runner's model, wrapped or not.
        fp16: Whether the loop runs it by autocast.

    Raises:
        UserError: The model merges nothing.
    """
    try:
        with without_merging(model):
            pass
    except NothingMergesError as error:
        raise UserError(f"UnmergedReferenceHook: {error}") from None

    @torch.no_grad()
    def predict(data_batch: dict) -> Sequence:
        with without_merging(model), autocast(enabled=fp16):
            return model.test_step(data_batch)

    return predict


def _metrics_of(evaluator: Evaluator, kind: type) -> list:
    return [metric for metric in getattr(evaluator, "metrics", ()) if isinstance(metric, kind)]


@HOOKS.register_module()
class SaveMetricsHook(Hook):
    """Write the metrics of a test to a file.

    Args:
        path: The file; its ending (.json, .yaml, .pkl) says how.
    """

    priority = "LOWEST"

    def __init__(self, path: str):
        self.path = path

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write `metrics`, once per job."""
        if metrics is not None and runner.rank == 0:
            mmengine.dump(metrics, self.path)
