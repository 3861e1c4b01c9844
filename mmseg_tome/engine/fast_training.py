"""One switch that makes training fast where Python is what it waits for."""

from collections.abc import Callable

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmseg_tome.models.auto_merging import before_capture
from mmseg_tome.models.autocast import autocast_dtype
from mmseg_tome.registry import HOOKS

MAX_SHAPES = 2
"""Input shapes that graphs are captured for: each keeps the memory of its activations."""


@HOOKS.register_module()
class FastTrainingHook(Hook):
    """Run the backbone's forward and backward passes in training by CUDA graphs.

    A training step of a B5 launches thousands of kernels; on many machines Python takes longer for
    that than the GPU for the work. Our configs have the hook switched off:
    `--cfg-options custom_hooks.3.enabled=True`. Images have to be of one size, as crops are. Not
    for `with_cp`, for several processes or for accumulated gradients: there, and wherever a capture
    fails, training runs as without the hook, and the log says so.

    Args:
        enabled: The switch.
    """

    def __init__(self, enabled: bool = True):
        self.enabled = enabled

    def before_train(self, runner: Runner) -> None:
        """Replace the backbone's forward."""
        if not self.enabled:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        problem = None
        if get_world_size() > 1:
            problem = "several processes train"
        elif getattr(runner.optim_wrapper, "_accumulative_counts", 1) > 1:
            problem = "gradients are accumulated"
        elif getattr(model.backbone, "with_cp", False):
            problem = "with_cp recomputes blocks"
        if problem:
            print_log(f"training runs without CUDA graphs: {problem}", "current")
        else:
            model.backbone.forward = GraphedTraining(model.backbone)


class GraphedTraining:
    """A module's forward in training as CUDA graphs, one for the input shape and its backward.

    Everything else (evaluation, CPUs, inputs beyond the first shapes) runs plainly.

    Args:
        module: From one tensor to tensors, without host synchronisation.
        capture: Makes a graphed function of a module and its input.
    """

    def __init__(
        self, module: nn.Module, capture: Callable[[nn.Module, Tensor], Callable] | None = None
    ):
        self.module, self.plain = module, module.forward
        self.capture = capture
        self.graphs: dict[tuple, Callable] = {}

    def __call__(self, x: Tensor):
        capture = self.capture or (capture_training_graph if x.is_cuda else None)
        if capture is None or not (self.module.training and torch.is_grad_enabled()):
            return self.plain(x)
        key = (x.shape, x.stride(), x.dtype, x.device, autocast_dtype(x))
        if key not in self.graphs:
            self.graphs[key] = self._record(capture, x)
        return self.graphs[key](x)

    @property
    def captured(self) -> list[bool]:
        """For each kind of input so far, whether a graph was captured."""
        return [graph != self.plain for graph in self.graphs.values()]

    def _record(self, capture: Callable, x: Tensor) -> Callable:
        shape = tuple(x.shape)
        if len(self.graphs) >= MAX_SHAPES:
            print_log(f"inputs {shape} train without a CUDA graph: too many shapes", "current")
            return self.plain
        try:
            return capture(Plain(self.module, self.plain), x)
        except RuntimeError as error:
            first_line = str(error).splitlines()[0]
            print_log(f"inputs {shape} train without a CUDA graph: {first_line}", "current")
            return self.plain


class Plain(nn.Module):
    """A module with the forward that it had, for a capture that replaces its own."""

    def __init__(self, module: nn.Module, plain: Callable):
        super().__init__()
        self.module, self.plain = module, plain

    def forward(self, x: Tensor):
        return self.plain(x)


def capture_training_graph(module: nn.Module, x: Tensor) -> Callable:
    """`module` as graphs of its forward and its backward, for inputs like `x`."""
    cached = torch.is_autocast_cache_enabled()
    # The cache would keep cast weights of the capture, and free them while the graph reads them.
    torch.set_autocast_cache_enabled(False)
    try:
        with before_capture():
            return torch.cuda.make_graphed_callables(module, (x.clone(),), allow_unused_input=True)
    finally:
        torch.set_autocast_cache_enabled(cached)
