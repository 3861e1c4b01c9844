"""What makes training fast where Python is what it waits for."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from mmseg_tome.registry import HOOKS
from mmseg_tome.runtime.acceleration import check_launch, unwrap, why_eager
from mmseg_tome.runtime.graphs import install, release


@HOOKS.register_module()
class FastTrainingHook(Hook):
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
        check_launch(launch)
        self.launch = launch
        self.enabled = enabled
        self._preprocessor: nn.Module | None = None

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
            # Copies from pinned memory need not be waited for.
            preprocessor = getattr(network, "data_preprocessor", None)
            if not getattr(preprocessor, "_non_blocking", True):
                preprocessor._non_blocking = True
                self._preprocessor = preprocessor

    def after_train(self, runner: Runner) -> None:
        """Let the backbone run as before."""
        network = unwrap(runner.model)
        if hasattr(network, "backbone"):
            release(network.backbone, "training")
        if self._preprocessor is not None:
            self._preprocessor._non_blocking = False
            self._preprocessor = None


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
