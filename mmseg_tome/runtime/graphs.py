"""A module's forward as CUDA graphs: one cache for inference and for training.

A B5 launches thousands of kernels in a pass, and Python takes longer for that than a GPU for the
work of a small batch. A CUDA graph launches them all at once. It replays fixed memory, so there is
one for each kind of input; whatever cannot be captured runs as before.
"""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from mmseg_tome.merging.grid_cache import keep_index_maps
from mmseg_tome.nets.layers import autocast_dtype
from mmseg_tome.ops.backend import is_compiling

MAX_SHAPES = 8
"""Kinds of input whose inference graphs are kept."""
MAX_TRAINING_SHAPES = 2
"""Kinds of input whose training graphs are kept: each holds the memory of its activations."""
MAX_COUNTED = 1024
"""Kinds of input that are remembered at all."""
WARM_UP = 2

Replay = Callable[[Sequence[Tensor]], list[Tensor]]
"""From inputs like those of the capture to outputs that are the caller's own."""


class Plain:
    """The forward that a module's class defines, whatever stands in its place meanwhile."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, *args, **kwargs):
        return type(self.module).forward(self.module, *args, **kwargs)


class Graphed:
    """A module's forward, replayed as CUDA graphs. Put it in place by `install`.

    The results are those of the forward, to rounding none. A graph belongs to a kind of input: its
    tensors' shapes, strides, data types and devices, autocast, and whether gradients are computed.
    Whatever is not captured runs plainly: inputs on a CPU, the first of its kind (one image is not
    worth a capture), kinds beyond `max_shapes` unless they come twice as often as one that has a
    graph, a module in training mode without gradients or in evaluation mode with them, a second
    forward pass before the first one's backward pass, and what fails to be captured (one log line
    says why). Parameters that moved in memory, as `load_state_dict(assign=True)` moves them, are
    captured anew. A deep copy or a pickle carries no graphs and captures its own.

    Args:
        module: From (lists of) tensors to (lists of) tensors, without host synchronisation.
        function: What to run, if not the forward that `module` has now.
        uses: What is captured: "inference", passes without gradients; "training", passes with
            gradients and their backward passes.
        max_shapes: How many inference graphs are kept.
        patience: How often a kind of input runs plainly before it is captured.
        capture: Makes the replays; `CudaGraphs` unless a test brings its own.
    """

    def __init__(
        self,
        module: nn.Module,
        function: Callable | None = None,
        uses: Iterable[str] = (),
        max_shapes: int = MAX_SHAPES,
        patience: int = 1,
        capture: CudaGraphs | None = None,
    ):
        self.module = module
        self.function = function or module.__dict__.get("forward") or Plain(module)
        self.uses = set(uses)
        self.max_shapes = max_shapes
        self.patience = patience
        self.capture = capture or CudaGraphs()
        self.suspended = False
        self._know_nothing()

    def _know_nothing(self) -> None:
        self.graphs: dict[tuple, _Graph] = {}
        self.counts: OrderedDict[tuple, int] = OrderedDict()
        self.refused: set[tuple] = set()

    def forget(self, use: str) -> None:
        """Free the graphs of one use, and what is known of its inputs."""
        for known in (self.graphs, self.counts):
            for key in [key for key in known if key[-1] == use]:
                del known[key]
        self.refused = {key for key in self.refused if key[-1] != use}
        self.capture.renew()

    def __getstate__(self) -> dict:
        state = dict(self.__dict__, suspended=False)
        for own in ("graphs", "counts", "refused"):
            del state[own]
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._know_nothing()

    def __call__(self, *args, **kwargs):
        if kwargs:
            return self.function(*args, **kwargs)
        tensors, structure = tree_flatten(args)
        use = "training" if torch.is_grad_enabled() else "inference"
        as_used = use in self.uses and self.module.training == (use == "training")
        if self.suspended or not as_used or not self.capture.takes(tensors):
            return self.function(*args)
        key = _kind(tensors, structure, use)
        with self.capture.lock:
            graph = self._graph(key, tensors, structure)
            replayed = graph and graph.replay(tensors)
        if not replayed:
            return self.function(*args)
        return tree_unflatten(replayed, graph.structure)

    @property
    def captured(self) -> list[bool]:
        """For each kind of input that is known, whether it has a graph: failures are False."""
        return [True] * len(self.graphs) + [False] * len(self.refused)

    def _graph(self, key: tuple, tensors: list, structure) -> _Graph | None:
        """The graph of a kind of input, captured now if it is time; None to run plainly."""
        count = self._count(key)
        graph = self.graphs.get(key)
        if graph is not None and graph.is_current():
            return graph
        if graph is not None:
            del self.graphs[key]
            self.capture.renew()
        if count <= self.patience or key in self.refused:
            return None
        use = key[-1]
        rivals = [other for other in self.graphs if other[-1] == use]
        if len(rivals) >= (MAX_TRAINING_SHAPES if use == "training" else self.max_shapes):
            rarest = min(rivals, key=lambda other: self.counts.get(other, 0))
            if count <= 2 * self.counts.get(rarest, 0):
                return None
            del self.graphs[rarest]
        try:
            graph = _Graph(self, tensors, structure, use)
        except RuntimeError as error:  # torch's OutOfMemoryError is one
            self._refuse(key, tensors, error)
            return None
        self.graphs[key] = graph
        return graph

    def _count(self, key: tuple) -> int:
        self.counts[key] = count = self.counts.get(key, 0) + 1
        self.counts.move_to_end(key)
        if len(self.counts) > MAX_COUNTED:
            del self.counts[next(other for other in self.counts if other not in self.graphs)]
        return count

    def _refuse(self, key: tuple, tensors: list, error: RuntimeError) -> None:
        if len(self.refused) >= MAX_COUNTED:
            self.refused.clear()
        self.refused.add(key)
        # What ends a broken capture fails as well; what broke it comes before.
        cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        shapes = ", ".join("x".join(map(str, x.shape)) for x in tensors)
        name = type(self.module).__name__
        print_log(f"{name} runs inputs of {shapes} without a CUDA graph: {reason}", "current")
        self.capture.recover()


def print_log(message: str, logger: str) -> None:
    """As mmengine's; a model of torch alone has Python's log."""
    try:
        from mmengine import logging as mm
    except ImportError:
        logging.getLogger("mmseg_tome").warning(message)
    else:
        mm.print_log(message, logger)


class _Graph:
    """What was captured for one kind of input."""

    def __init__(self, owner: Graphed, tensors: list[Tensor], structure, use: str):
        self.weights = _Weights(owner.module)
        found = []

        def flat(*given: Tensor) -> list[Tensor]:
            outputs, out_structure = tree_flatten(owner.function(*tree_unflatten(given, structure)))
            if not all(isinstance(out, Tensor) for out in outputs):
                raise RuntimeError("it returns more than tensors")
            found.append(out_structure)
            return outputs

        with ExitStack() as stack:
            stack.enter_context(_without_autocast_cache())
            # A cache may drop the index maps that the graph reads.
            self.index_maps = stack.enter_context(keep_index_maps())
            if use == "training":
                stack.enter_context(_keeping_buffers(owner.module))
                self.replay = owner.capture.training(flat, tensors, owner.module)
            else:
                self.replay: Replay = owner.capture.inference(flat, tensors)
        self.structure = found[-1]

    def is_current(self) -> bool:
        """Whether the weights are still where the graph reads them."""
        return self.weights.unmoved()


class _Weights:
    """Where the parameters and buffers of a module lie in memory, and which of them train."""

    def __init__(self, module: nn.Module):
        owners = [m for part in module.modules() for m in (part._parameters, part._buffers)]
        self.entries = [(m, name) for m in owners for name, x in m.items() if x is not None]
        self.addresses = self._now()

    def unmoved(self) -> bool:
        """Whether all are where they were."""
        return self._now() == self.addresses

    def _now(self) -> list[tuple[int, bool]]:
        tensors = (owner[name] for owner, name in self.entries)
        return [(x.data_ptr(), x.requires_grad) for x in tensors]


class CudaGraphs:
    """Captures functions of tensors as CUDA graphs, on the tensors' device.

    The inference graphs of one instance share their memory, as only one of them runs at a time:
    threads take turns, and a stream waits for the last one's replay.
    """

    def __init__(self):
        self.pool = None
        self.streams: dict[torch.device, torch.cuda.Stream] = {}
        self.lock = threading.RLock()
        self.last: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None

    def __getstate__(self) -> dict:
        return {}

    def __setstate__(self, state: dict) -> None:
        self.__init__()

    def takes(self, tensors: list) -> bool:
        """Whether these inputs can be captured: tensors of one GPU, outside other captures."""
        if not tensors or not all(isinstance(x, Tensor) and x.is_cuda for x in tensors):
            return False
        if is_compiling() or len({x.device for x in tensors}) > 1:
            return False
        return not torch.cuda.is_current_stream_capturing()

    def renew(self) -> None:
        """Let graphs to come share other memory: that of those so far may be freed with them."""
        self.pool = None

    def recover(self) -> None:
        """Give back the memory of a capture that failed, or of what ran before one."""
        self.renew()
        gc.collect()
        torch.cuda.empty_cache()

    def inference(self, function: Callable, tensors: list[Tensor]) -> Replay:
        """`function(*tensors)` without gradients."""
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(tensors[0].device):
            inputs = [torch.empty_like(x).copy_(x) for x in tensors]
            self._warm_up(lambda: [function(*inputs) for _ in range(WARM_UP)])
            graph = torch.cuda.CUDAGraph()
            with self._capturing(graph, self.pool):
                outputs = function(*inputs)

        def replay(given: Sequence[Tensor]) -> list[Tensor]:
            with torch.cuda.device(inputs[0].device), self._turn():
                for own, new in zip(inputs, given, strict=True):
                    own.copy_(new)
                graph.replay()
                return [out.clone() for out in outputs]  # the next replay writes over these

        return replay

    def work(self, step: Callable[[], None], device: torch.device) -> Callable[[], None]:
        """A replay of a step that neither takes nor returns anything."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            self._warm_up(step)
            with self._capturing(graph, None):
                step()
        return graph.replay

    def _stream(self) -> torch.cuda.Stream:
        device = torch.device("cuda", torch.cuda.current_device())
        if device not in self.streams:
            self.streams[device] = torch.cuda.Stream()
        return self.streams[device]

    def _warm_up(self, work: Callable[[], object]) -> None:
        """Run what will be captured: index maps are cached, libraries choose their kernels."""
        stream = self._stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)

    @contextmanager
    def _capturing(self, graph: torch.cuda.CUDAGraph, pool) -> Iterator[None]:
        """Capture what runs inside; what a capture that breaks off leaves behind is mended."""
        stream, generators = torch.cuda.current_stream(), torch.cuda.default_generators
        # Other threads pin memory and watch collectives meanwhile, as they may.
        options = dict(pool=pool, stream=self._stream(), capture_error_mode="thread_local")
        try:
            with torch.cuda.graph(graph, **options):
                yield
        except BaseException:
            torch.cuda.set_stream(stream)
            self.streams.clear()
            # Random numbers would wait for the end of the capture for good.
            generator = generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            raise

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Work on the shared memory after whatever another stream does there."""
        stream = torch.cuda.current_stream()
        if self.last is not None and self.last[0] != stream:
            stream.wait_event(self.last[1])
        yield
        self.last = stream, stream.record_event()

    def training(self, function: Callable, tensors: list[Tensor], module: nn.Module) -> Replay:
        """`function(*tensors)` and its backward pass, for which `module` holds the parameters.

        `torch.cuda.make_graphed_callables` does the same, but breaks off when another thread pins
        memory during the capture, and gives wrong sums when gradients accumulate.
        """
        with torch.cuda.device(tensors[0].device):
            inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in tensors]
            rng = torch.cuda.get_rng_state()  # random numbers stay what they would have been
            try:
                with _aliases(module) as (parameters, aliases):
                    wanted = [x for x in inputs if x.requires_grad] + aliases
                    if not wanted:
                        raise RuntimeError("nothing of it is trained")
                    self._warm_up(lambda: _gradients(function(*inputs), wanted))
                    self.recover()
                    forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
                    pool = torch.cuda.graph_pool_handle()
                    with self._capturing(forward, pool):
                        outputs = function(*inputs)
                    given = [torch.empty_like(x) if x.requires_grad else None for x in outputs]
                    with self._capturing(backward, pool):
                        found = _gradients(outputs, wanted, given)
            finally:
                torch.cuda.set_rng_state(rng)
        return Passes(forward, backward, inputs, parameters, outputs, given, found)


class Passes:
    """A forward and a backward pass that can be replayed, and the memory that they work on.

    Args:
        forward: Its `replay()` makes `outputs` of `inputs`.
        backward: Its `replay()` makes `gradients` of `given`.
        inputs: Tensors that the passes read.
        parameters: What is trained.
        outputs: Tensors that the forward pass writes.
        given: Their gradients, None where an output has none.
        gradients: Those of the inputs that have one, then those of the parameters.
    """

    def __init__(self, forward, backward, inputs, parameters, outputs, given, gradients):
        self.forward, self.backward = forward, backward
        self.inputs, self.parameters, self.given = inputs, parameters, given
        self.outputs = [x.detach() for x in outputs]
        found = iter(gradients)
        of_inputs = [next(found) if x.requires_grad else None for x in inputs]
        self.gradients = [*of_inputs, *found]
        self.addresses = {x.data_ptr() for x in self.gradients if x is not None}
        self.pending: weakref.ref | None = None
        self.runs = 0

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Outputs for these inputs; None while the last ones' backward pass may still come."""
        if self.pending is not None and self.pending() is not None:
            return None
        self.keep_gradients()
        return list(_Replayed.apply(self, *tensors, *self.parameters))

    def keep_gradients(self) -> None:
        """Copy gradients that wait for more of them, or for an optimizer, out of our memory.

        Either replay writes over it: what the forward pass needs for a while may lie there, too.
        """
        waiting = [p for p in self.parameters if p.grad is not None]
        waiting = [p for p in waiting if p.grad.data_ptr() in self.addresses]
        if waiting:
            copies = torch._foreach_mul([p.grad for p in waiting], 1.0)
            for parameter, copy in zip(waiting, copies, strict=True):
                parameter.grad = copy


class _Token:
    """Lives as long as the backward pass of a forward pass can come."""


class _Replayed(torch.autograd.Function):
    """Replays a forward pass; its inputs and the parameters get what the backward pass gives."""

    @staticmethod
    def forward(ctx, passes: Passes, *tensors: Tensor):
        ctx.set_materialize_grads(False)
        for own, new in zip(passes.inputs, tensors, strict=False):
            own.detach().copy_(new)
        passes.forward.replay()
        passes.runs += 1
        ctx.passes, ctx.run, ctx.token = passes, passes.runs, _Token()
        passes.pending = weakref.ref(ctx.token)
        outputs = tuple(x.detach().clone() for x in passes.outputs)
        ctx.mark_non_differentiable(
            *(x for x, g in zip(outputs, passes.given, strict=True) if g is None)
        )
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        passes = ctx.passes
        if ctx.run != passes.runs:
            raise RuntimeError(
                "a pass that was captured as a CUDA graph goes backward once more, with its memory "
                'in use by a later pass: train with launch="eager"'
            )
        passes.keep_gradients()
        for own, new in zip(passes.given, gradients, strict=True):
            if own is not None:
                own.zero_() if new is None else own.copy_(new)
        passes.backward.replay()
        ctx.token = None
        found = [None if g is None else g.detach() for g in passes.gradients]
        # What parameters have is copied if it is to last; what inputs get, nobody looks after.
        for i, gradient in enumerate(found[: len(passes.inputs)]):
            found[i] = None if gradient is None else gradient.clone()
        return None, *found


def _gradients(
    outputs: list[Tensor], wanted: list[Tensor], given: list[Tensor | None] | None = None
) -> tuple:
    """Gradients of `wanted` for gradients `given` of those outputs that have one.

    Without the autocast of the forward pass: a backward pass is run outside of it, in the data
    types that the forward pass had, and its threads do not know autocast's data type.
    """
    given = given or [torch.zeros_like(x) if x.requires_grad else None for x in outputs]
    roots = [x for x, g in zip(outputs, given, strict=True) if g is not None]
    given = [g for g in given if g is not None]
    with torch.autocast(outputs[0].device.type, enabled=False):
        return torch.autograd.grad(roots, wanted, given, allow_unused=True)


def _kind(tensors: list[Tensor], structure, use: str) -> tuple:
    """What a graph depends on, besides the weights."""
    inputs = tuple((x.shape, x.stride(), x.dtype, x.device, x.requires_grad) for x in tensors)
    return inputs, structure, autocast_dtype(tensors[0]), use


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


@contextmanager
def _aliases(module: nn.Module) -> Iterator[tuple[list[nn.Parameter], list[Tensor]]]:
    """Let a module compute with aliases of its trained parameters.

    A backward pass ends on the stream on which a parameter's gradient was first accumulated. That
    may be one that a capture must not wait for; DDP keeps all of them from before the first pass.

    Yields:
        The parameters, and as many tensors on the same memory that require gradients.
    """
    owners = [part._parameters for part in module.modules()]
    entries = [(owner, name) for owner in owners for name, p in owner.items() if p is not None]
    trained = [(owner, name) for owner, name in entries if owner[name].requires_grad]
    parameters = list(dict.fromkeys(owner[name] for owner, name in trained))
    aliases = {id(p): p.detach().requires_grad_() for p in parameters}
    before = [(owner, name, owner[name]) for owner, name in trained]
    for owner, name, parameter in before:
        owner[name] = aliases[id(parameter)]
    try:
        yield parameters, list(aliases.values())
    finally:
        for owner, name, parameter in before:
            owner[name] = parameter


@contextmanager
def _keeping_buffers(module: nn.Module) -> Iterator[None]:
    """Statistics of norms stay what they were, however often the module runs inside."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def install(module: nn.Module, use: str, **options) -> Graphed:
    """Let a module run by CUDA graphs from now on.

    Args:
        module: One that does so for another use keeps its graphs.
        use: "inference" or "training".
        **options: Of `Graphed`.
    """
    graphed = module.__dict__.get("forward")
    if isinstance(graphed, Graphed):
        vars(graphed).update(options)
    else:
        graphed = module.forward = Graphed(module, **options)
    graphed.uses.add(use)
    return graphed


def release(module: nn.Module, use: str) -> None:
    """End one use of a module's graphs; the last one takes them away."""
    graphed = module.__dict__.get("forward")
    if not isinstance(graphed, Graphed):
        return
    graphed.uses.discard(use)
    graphed.forget(use)
    if not graphed.uses:
        if isinstance(graphed.function, Plain):
            del module.forward
        else:
            module.forward = graphed.function


def graphed_parts(model: nn.Module) -> list[Graphed]:
    """What of a model runs by CUDA graphs."""
    forwards = (module.__dict__.get("forward") for module in model.modules())
    return [forward for forward in forwards if isinstance(forward, Graphed)]


@contextmanager
def suspended(model: nn.Module) -> Iterator[nn.Module]:
    """Run a model plainly inside: a replayed graph calls no hooks and knows no other merging."""
    parts = [part for part in graphed_parts(model) if not part.suspended]
    for part in parts:
        part.suspended = True
    try:
        yield model
    finally:
        for part in parts:
            part.suspended = False
