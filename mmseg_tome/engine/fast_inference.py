"""One switch that makes a test fast."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmseg_tome.inference.acceleration import MAX_SHAPES, accelerate
from mmseg_tome.registry import HOOKS


@HOOKS.register_module()
class FastInferenceHook(Hook):
    """Run the network of a test by CUDA graphs, and in half precision if that is wanted.

    Our configs have it switched off: `--cfg-options custom_hooks.2.enabled=True`, and for half
    precision `custom_hooks.2.dtype=bfloat16`. Training and its validations are left alone.

    Args:
        enabled: The switch.
        dtype: "float16" or "bfloat16"; None keeps the outputs equal.
        graphs: Capture CUDA graphs, where there is a GPU.
        max_shapes: Input shapes whose graphs are kept.
    """

    def __init__(
        self,
        enabled: bool = True,
        dtype: str | None = None,
        graphs: bool = True,
        max_shapes: int = MAX_SHAPES,
    ):
        self.enabled = enabled
        self.options = dict(dtype=dtype, graphs=graphs, max_shapes=max_shapes)

    def before_test(self, runner: Runner) -> None:
        """Accelerate the model, once its weights are loaded."""
        if self.enabled:
            wrapped = is_model_wrapper(runner.model)
            accelerate(runner.model.module if wrapped else runner.model, **self.options)
