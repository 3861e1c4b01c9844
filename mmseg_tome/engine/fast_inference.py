"""What makes a test, and the validations of a training, fast on a GPU."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner

from mmseg_tome.engine.wanted_logits import wants_logits
from mmseg_tome.registry import HOOKS
from mmseg_tome.runtime.acceleration import (
    Acceleration,
    accelerate,
    check_launch,
    has_backbone_and_head,
    unwrap,
)
from mmseg_tome.runtime.graphs import MAX_SHAPES


@HOOKS.register_module()
class FastInferenceHook(Hook):
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
        check_launch(launch)
        self.launch = launch if graphs else "eager"
        self.dtype = dtype
        self.max_shapes = max_shapes
        self.enabled = enabled
        self._acceleration: Acceleration | None = None
        self._attributes: list[tuple] = []

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
            # Copies from pinned memory need not be waited for.
            self._set(getattr(network, "data_preprocessor", None), "_non_blocking", True)
            if hasattr(network, "labels_only"):
                reason = wants_logits(runner)
                self._set(network, "labels_only", reason is None)
                notes.append(f"scores at full size for {reason}" if reason else "labels alone")
        print_log("; ".join(notes), "current")

    def _set(self, owner, name: str, value) -> None:
        before = getattr(owner, name, value)  # a preprocessor of the user's own may lack it
        if before != value:  # else it is left to whoever set it, which may be a second hook
            self._attributes.append((owner, name, before))
            setattr(owner, name, value)

    def _stop(self) -> None:
        while self._attributes:
            setattr(*self._attributes.pop())
        if self._acceleration is not None:
            self._acceleration.restore()
            self._acceleration = None
