"""Who reads the full logits of a test or a validation: where nobody does, labels suffice."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.hooks import Hook, PrepareTTAHook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner

KNOWN = ("mmengine", "mmseg", "mmpose", "mmseg_tome")
"""Packages whose hooks, loops and evaluators are known to read no logits."""

READ_LABELS = ("mmseg.evaluation.metrics.iou_metric", "mmseg.evaluation.metrics.citys_metric")
"""Modules of mmseg's metrics that read `pred_sem_seg` alone. Others say so, where they define
`process`, by a class attribute `reads_labels_only = True`."""


def wants_logits(runner: Runner) -> str | None:
    """Why the data samples of a test or a validation need `seg_logits`.

    Whatever is not known to do without them is taken to read them.

    Args:
        runner: About to test or to validate; every loop that is built counts.

    Returns:
        The class of the first model, loop, evaluator, metric, visualizer or hook that may read
        them; None if labels suffice.
    """
    return next(_readers(runner), None)


def _readers(runner: Runner) -> Iterator[str]:
    model = runner.model
    model = model.module if is_model_wrapper(model) else model
    if isinstance(model, BaseTTAModel):
        yield type(model).__name__
    # The runner's properties would build a loop that is not needed.
    loops = [getattr(runner, name, None) for name in ("_val_loop", "_test_loop")]
    for loop in loops:
        evaluator = getattr(loop, "evaluator", None)
        if evaluator is None:  # a config still, or none
            continue
        for part in (loop, evaluator):
            if _is_foreign(part):
                yield type(part).__name__
        for metric in getattr(evaluator, "metrics", ()):
            if not _reads_labels_only(type(metric)):
                yield type(metric).__name__
    for hook in runner.hooks:
        if isinstance(hook, PrepareTTAHook) or (_is_foreign(hook) and _sees_results(type(hook))):
            yield type(hook).__name__
        elif getattr(hook, "draw", False) and _is_foreign(runner.visualizer):
            yield type(runner.visualizer).__name__


def _is_foreign(part: object) -> bool:
    return type(part).__module__.partition(".")[0] not in KNOWN


def _reads_labels_only(metric: type) -> bool:
    """Whether the class that defines how a metric reads data samples is known to read labels."""
    reader = next(kind for kind in metric.__mro__ if "process" in vars(kind))
    return reader.__module__ in READ_LABELS or vars(reader).get("reads_labels_only", False)


def _sees_results(hook: type) -> bool:
    names = ("after_val_iter", "after_test_iter", "_after_iter")
    return any(getattr(hook, name) is not getattr(Hook, name) for name in names)
