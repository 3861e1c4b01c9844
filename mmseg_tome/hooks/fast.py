"""What makes tests, validations and training fast on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.hooks import Hook, PrepareTTAHook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmseg_tome.registry import HOOKS
from mmseg_tome.runtime.acceleration import (
    Acceleration,
    accelerate,
    check_launch,
    has_backbone_and_head,
    unwrap,
    why_eager,
)
from mmseg_tome.runtime.graphs import MAX_SHAPES, install, release


class _Restoring(Hook):
    """Attributes that are set for a while."""

    def __init__(self):
        self._attributes: list[tuple] = []

    def _set(self, owner, name: str, value) -> None:
        before = getattr(owner, name, value)  # a preprocessor of the user's own may lack it
        if before != value:  # else it is left to what set it, which may be a second hook
            self._attributes.append((owner, name, before))
            setattr(owner, name, value)

    def _do_not_wait_for_copies(self, network: nn.Module) -> None:
        """Copies from pinned memory need not be waited for."""
        self._set(getattr(network, "data_preprocessor", None), "_non_blocking", True)

    def _restore(self) -> None:
        while self._attributes:
            setattr(*self._attributes.pop())


@HOOKS.register_module()
class FastInferenceHook(_Restoring):
    """Run the network of tests and validations by CUDA graphs, in half precision if that is wanted.

    Our configs have it as `default_hooks.fast_inference`. Results stay as they are, but for half
    precision. Where a test needs the class of each pixel alone, the scores are never made at full
    size. One line of the log says what runs how. After the test everything is as before.

    Args:
        launch: "auto", "graphs" or "eager", see `accelerate`.
        dtype: "float16" or "bfloat16" for half precision in tests; validations within a training
            keep the data type of the weights.
        max_shapes: Input shapes whose graphs are kept.
        enabled: False leaves everything as it is without this hook.
        graphs: Deprecated: False is `launch="eager"`.
    """

    def __init__(
        self,
        launch: str = "auto",
        dtype: str | None = None,
        max_shapes: int = MAX_SHAPES,
        enabled: bool = True,
        graphs: bool = True,
    ):
        super().__init__()
        check_launch(launch)
        self.launch = launch if graphs else "eager"
        self.dtype = dtype
        self.max_shapes = max_shapes
        self.enabled = enabled
        self._acceleration: Acceleration | None = None

    def before_test(self, runner: Runner) -> None:
        """Accelerate the model, once its weights are loaded."""
        self._start(runner, "test", self.dtype)

    def before_val(self, runner: Runner) -> None:
        """Accelerate the model for one validation."""
        within_training = isinstance(runner._train_loop, BaseLoop)
        self._start(runner, "validation", None if within_training else self.dtype)

    def after_test(self, runner: Runner) -> None:
        """Let the model run as before."""
        self._stop()

    def after_val(self, runner: Runner) -> None:
        """Let the model run as before: a training goes on."""
        self._stop()

    def _start(self, runner: Runner, what: str, dtype: str | None) -> None:
        self._stop()
        network = unwrap(runner.model)
        if not self.enabled or not has_backbone_and_head(network):
            return
        options = dict(dtype=dtype, launch=self.launch, max_shapes=self.max_shapes)
        self._acceleration = accelerate(network, **options)
        notes = [f"{what}: {self._acceleration.summary}"]
        if next(network.parameters()).is_cuda:
            self._do_not_wait_for_copies(network)
            if hasattr(network, "labels_only"):
                reason = wants_logits(runner)
                self._set(network, "labels_only", reason is None)
                notes.append(f"scores at full size for {reason}" if reason else "labels alone")
        print_log("; ".join(notes), "current")

    def _stop(self) -> None:
        self._restore()
        if self._acceleration is not None:
            self._acceleration.restore()
            self._acceleration = None


@HOOKS.register_module()
class FastTrainingHook(_Restoring):
    """Run the backbone's forward and backward passes in training by CUDA graphs.

    Our configs have it as `default_hooks.fast_training`. A training step of a B5 launches thousands
    of kernels; on many machines Python takes longer for that than the GPU for the work. Losses are
    those of training without it, to rounding: the same random numbers are drawn. It goes with
    several GPUs, accumulated gradients, mixed precision and gradient clipping. Images have to be of
    one size, as crops are; other sizes, and whatever cannot be captured, train without graphs, and
    the log says so.

    Args:
        launch: "auto", "graphs" or "eager", see `mmseg_tome.runtime.acceleration.accelerate`.
        enabled: False leaves everything as it is without this hook.
    """

    def __init__(self, launch: str = "auto", enabled: bool = True):
        super().__init__()
        check_launch(launch)
        self.launch = launch
        self.enabled = enabled

    def before_train(self, runner: Runner) -> None:
        """Let the backbone run by graphs."""
        network = unwrap(runner.model)
        if not self.enabled or not hasattr(network, "backbone"):
            return
        reason = why_eager(network, self.launch) or why_not_captured(runner.model)
        if reason is None:
            install(network.backbone, "training")
        how = "by CUDA graphs" if reason is None else f"eagerly ({reason})"
        print_log(f"training: the backbone runs {how}", "current")
        if next(network.parameters()).is_cuda:
            self._do_not_wait_for_copies(network)

    def after_train(self, runner: Runner) -> None:
        """Let the backbone run as before."""
        network = unwrap(runner.model)
        if hasattr(network, "backbone"):
            release(network.backbone, "training")
        self._restore()


def why_not_captured(model: nn.Module) -> str | None:
    """Why a model's training cannot be captured, as far as can be said before it is tried."""
    backbone = unwrap(model).backbone
    if getattr(backbone, "with_cp", False) and getattr(backbone, "recomputes_dropout", True):
        return "with_cp would recompute dropout with other random numbers"
    wrappers = [m for m in model.modules() if hasattr(m, "module")]
    sharded = [m for m in wrappers if "FullyShardedDataParallel" in type(m).__name__]
    if sharded:
        return f"{type(sharded[0]).__name__} moves parameters"
    return None


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
