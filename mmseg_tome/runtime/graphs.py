"""A module's forward as CUDA graphs: one cache for inference and for training.

A B5 launches thousands of kernels in a pass, and Python takes longer for that than a GPU for the
work of a small batch. A CUDA graph launches them all at once. It replays fixed memory, so there is
one for each kind of input; whatever cannot be captured runs as before. `capture` makes the graphs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from mmseg_tome.errors import first_line
from mmseg_tome.merging.grid_cache import keep_index_maps
from mmseg_tome.nets.layers import autocast_dtype
from mmseg_tome.runtime.capture import CudaGraphs, Replay

MAX_SHAPES = 8
"""Kinds of input whose inference graphs are kept."""
MAX_TRAINING_SHAPES = 2
"""Kinds of input whose training graphs are kept: each holds the memory of its activations."""
MAX_COUNTED = 1024
"""Kinds of input that are remembered at all."""


class Plain:
    """The forward that a module's class defines, whatever stands in its place meanwhile."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, *args, **kwargs):
        return type(self.module).forward(self.module, *args, **kwargs)


class Graphed:
    """A module's forward, replayed as CUDA graphs. `install` puts it in place.

    Results equal those of the forward bit by bit. A graph belongs to a kind of input: its
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

    What a module does with its input is a part of the input's kind, too, where it has an attribute
    `graph_variant`.
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
        key = (self.module.__dict__.get("graph_variant"), *_kind(tensors, structure, use))
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
        shapes = ", ".join("x".join(map(str, x.shape)) for x in tensors)
        name = type(self.module).__name__
        print_log(
            f"{name} runs inputs of {shapes} without a CUDA graph: {first_line(cause)}", "current"
        )
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
