"""The fastest safe way to run a trained network: CUDA graphs per input shape, half precision.

On a GPU a small batch spends its time between kernels: a B5 launches thousands of them. A CUDA
graph launches them all at once. It replays fixed memory, so one is captured for each input shape,
and the results are copied out; whatever cannot be captured runs as before.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from mmseg_tome.models.auto_merging import before_capture

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_SHAPES = 8
WARM_UP = 3


def accelerate(
    model: nn.Module, dtype: str | None = None, graphs: bool = True, max_shapes: int = MAX_SHAPES
) -> None:
    """Make a trained segmentation or pose model's network run faster, in place.

    Args:
        model: A model with a `backbone` and a `decode_head` or `head`, in eval mode.
        dtype: "float16" or "bfloat16" to compute in half precision, without autocast's casts;
            None keeps the data type, and the outputs equal.
        graphs: Capture CUDA graphs; has no effect on a CPU.
        max_shapes: Input shapes whose graphs are kept, the least recently used going first.

    Raises:
        ValueError: Unknown `dtype`, or a model without these parts.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be None, {' or '.join(DTYPES)}, got {dtype!r}")
    head = getattr(model, "decode_head", None) or getattr(model, "head", None)
    if head is None or not hasattr(model, "backbone"):
        raise ValueError(f"{type(model).__name__} has no backbone with a head to accelerate")
    for part, hands_on in ((model.backbone, True), (head, False)):
        forward = part.forward
        if dtype is not None:
            to_half(part, DTYPES[dtype])
            # Features go from the backbone to the head as they are; results are float32.
            forward = in_dtype(forward, DTYPES[dtype], None if hands_on else torch.float32)
        part.forward = GraphedFunction(forward, max_shapes) if graphs else forward


def to_half(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a module's weights, except for batch norms, whose statistics fold in float32."""
    for part in module.modules():
        if not isinstance(part, _BatchNorm):
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.is_floating_point():
                    cast = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                    setattr(part, name, cast)


def in_dtype(function: Callable, dtype: torch.dtype, result: torch.dtype | None) -> Callable:
    """`function` on inputs cast to `dtype`, its results cast to `result` if that is given."""

    def cast(*args):
        out = function(*tree_map(lambda x: x.to(dtype), args))
        return out if result is None else tree_map(lambda x: x.to(result), out)

    return cast


class CudaGraphCapture:
    """Captures functions as CUDA graphs that share their memory, as only one runs at a time."""

    def __init__(self):
        self.pool = None

    def __call__(self, function: Callable, tensors: list[torch.Tensor]) -> Callable[[], list]:
        """Capture `function(*tensors)`; the returned replay reads and writes the same memory."""
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with _without_autocast_cache(), before_capture():
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):  # index maps are cached, libraries choose their kernels
                    function(*tensors)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph, pool=self.pool):
                outputs = function(*tensors)

        def replay() -> list[torch.Tensor]:
            graph.replay()
            return outputs

        return replay


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """Autocast would keep cast weights of the warm-up, and free them while the graph reads them."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


class GraphedFunction:
    """A function of tensors, replayed as a CUDA graph for each shape of its inputs.

    Runs plainly on a CPU, where gradients are computed, and for inputs that cannot be captured.
    Once there are as many graphs as may be kept, a shape gets one when it comes for the second
    time: images of ever new sizes run plainly.

    Args:
        function: From (lists of) tensors to (lists of) tensors, without host synchronisation.
        max_shapes: How many graphs are kept.
        capture: Makes a replay of a flat function; a `CudaGraphCapture` on a GPU.
    """

    def __init__(
        self,
        function: Callable,
        max_shapes: int = MAX_SHAPES,
        capture: Callable[[Callable, list], Callable[[], list]] | None = None,
    ):
        self.function = function
        self.max_shapes = max_shapes
        self.capture = capture or CudaGraphCapture()
        self.graphs: OrderedDict[tuple, tuple | None] = OrderedDict()
        self.seen: set[tuple] = set()

    def __call__(self, *args):
        tensors, structure = tree_flatten(args)
        on_gpu = all(isinstance(x, torch.Tensor) and x.is_cuda for x in tensors)
        needs_gpu = isinstance(self.capture, CudaGraphCapture)
        if torch.is_grad_enabled() or (needs_gpu and not on_gpu):
            return self.function(*args)
        key = tuple((x.shape, x.stride(), x.dtype, x.device) for x in tensors)
        if key not in self.graphs:
            if len(self.graphs) >= self.max_shapes and key not in self.seen:
                self.seen.add(key)
                return self.function(*args)
            self.graphs[key] = self._record(tensors, structure)
            if len(self.graphs) > self.max_shapes:
                self.graphs.popitem(last=False)
        self.graphs.move_to_end(key)
        if self.graphs[key] is None:
            return self.function(*args)
        inputs, replay, out_structure = self.graphs[key]
        for own, given in zip(inputs, tensors, strict=True):
            own.copy_(given)
        # The next replay writes over these results.
        return tree_unflatten([out.clone() for out in replay()], out_structure)

    @property
    def captured(self) -> list[bool]:
        """For each kind of input that is kept, whether a graph was captured."""
        return [graph is not None for graph in self.graphs.values()]

    def _record(self, tensors: list, structure) -> tuple | None:
        inputs = [torch.empty_like(x).copy_(x) for x in tensors]
        found = []

        def flat(*given):
            out, out_structure = tree_flatten(self.function(*tree_unflatten(given, structure)))
            found.append(out_structure)
            return out

        try:
            replay = self.capture(flat, inputs)
        except RuntimeError as error:
            first_line = str(error).splitlines()[0]
            shapes = [tuple(x.shape) for x in tensors]
            print_log(f"inputs {shapes} run without a CUDA graph: {first_line}", "current")
            return None
        return inputs, replay, found[-1]
