"""Functions of tensors captured as CUDA graphs: forward passes, and backward passes with them."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WARM_UP = 2
"""Times that what will be captured runs before."""

Replay = Callable[[Sequence[Tensor]], list[Tensor]]
"""From inputs like those of the capture to outputs that are the caller's own."""


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
        if torch.compiler.is_compiling() or len({x.device for x in tensors}) > 1:
            return False
        return not torch.cuda.is_current_stream_capturing()

    def renew(self) -> None:
        """Use another memory pool from now on: that of earlier graphs is freed with them."""
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
        """Capture what runs inside; if that fails, restore the stream and the random numbers."""
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
        # Gradients of parameters are copied if they are to last; those of inputs must be here.
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
