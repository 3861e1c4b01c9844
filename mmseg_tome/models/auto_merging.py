"""Merging only where it pays: each stage is timed once per input shape, with and without."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmseg_tome.models.attention import Slots
from mmseg_tome.models.autocast import autocast_dtype
from mmseg_tome.models.layers import Grid
from mmseg_tome.ops.backend import is_compiling

ROUNDS = 5
MARGIN = 0.98
"""Merging is taken if it needs less than this part of the time without: timings scatter."""

_captured = False  # not a ContextVar, which torch.compile cannot read


@contextmanager
def before_capture() -> Iterator[None]:
    """Passes in here are what a CUDA graph will be captured of: stages are timed as graphs, too.

    Launches, which a graph saves, can take longer than the kernels, and merging launches more.
    """
    global _captured
    before, _captured = _captured, True
    try:
        yield
    finally:
        _captured = before


class Decision(NamedTuple):
    """What was decided for a stage.

    Attributes:
        merges: Whether its blocks merge.
        merged: Seconds of all its blocks with merging.
        unmerged: Seconds of all its blocks without.
    """

    merges: bool
    merged: float
    unmerged: float


class AutoMerging:
    """Decides whether a stage merges, by a short timing on the first input of each kind.

    A kind is the stage, the tokens' shape, device and data type, that of autocast where it is on,
    whether gradients are computed, and whether CUDA graphs will be replayed. What was decided is
    logged once and kept in `decisions`. Nothing can be timed while a graph is compiled or captured:
    run the model once before (see `before_capture`), or the stage merges.
    """

    def __init__(self):
        self.decisions: dict[tuple, Decision] = {}

    def merges(
        self, stage: int, blocks: Sequence[nn.Module], x: Tensor, hw: Grid, plain: Slots, reuse: int
    ) -> bool:
        """Whether a stage should merge.

        Args:
            stage: Its number, from 0.
            blocks: Its blocks.
            x: Its tokens, `[B, H * W, C]`.
            hw: Their grid.
            plain: Slot maps that merge nothing.
            reuse: How many blocks share slot maps.
        """
        dtype = autocast_dtype(x) or x.dtype
        key = (stage, tuple(x.shape), dtype, x.device, torch.is_grad_enabled(), _captured)
        if key not in self.decisions:
            if is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
                return True
            self.decisions[key] = decision = _decide(blocks, x, hw, plain, reuse)
            print_log(_sentence(stage, x, dtype, hw, decision), "current")
        return self.decisions[key].merges


def _decide(blocks: Sequence[nn.Module], x: Tensor, hw: Grid, plain: Slots, reuse: int) -> Decision:
    block = blocks[0]
    matching = -(-len(blocks) // reuse)  # blocks that find slot maps of their own
    with_grad, was_training = torch.is_grad_enabled(), block.training
    block.eval()  # no dropout: the random numbers of a training stay what they would be
    try:
        with torch.no_grad():
            slots = block(x, hw)[-1]
        times = [
            seconds(lambda given=given: _step(block, x, hw, given, with_grad), x.device)
            for given in (None, slots, plain)
        ]
    finally:
        block.train(was_training)
    match, again, unmerged = times
    merged = matching * match + (len(blocks) - matching) * again
    unmerged *= len(blocks)
    return Decision(merged < MARGIN * unmerged, merged, unmerged)


def _step(block: nn.Module, x: Tensor, hw: Grid, slots: Slots | None, with_grad: bool) -> None:
    if with_grad:
        x = x.detach().requires_grad_()
        x_sum, update, _ = block(x, hw, slots)
        out = x_sum.sum() + update.sum()
        torch.autograd.grad(out, x)  # of the input alone: parameters' gradients stay
    else:
        block(x, hw, slots)


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Median time of a step on a device: launches included, unless they will be captured."""
    if _captured and device.type == "cuda":
        step = _as_graph(step)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    samples = []
    for _ in range(ROUNDS + 2):
        wait()
        start = time.perf_counter()
        step()
        wait()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples[2:])  # the first ones warm up


def _as_graph(step: Callable[[], None]) -> Callable[[], None]:
    """A replay of a step, or the step itself if it cannot be captured."""
    step()  # libraries choose their kernels
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError:
        return step
    return graph.replay


def _sentence(stage: int, x: Tensor, dtype: torch.dtype, hw: Grid, decision: Decision) -> str:
    return (
        f"auto merging: stage {stage + 1}, {hw[0]}x{hw[1]} tokens, batch {x.shape[0]}, "
        f"{str(dtype).removeprefix('torch.')}, {x.device}: "
        f"{'merges' if decision.merges else 'does not merge'} "
        f"({decision.merged * 1e3:.2f} ms merged, {decision.unmerged * 1e3:.2f} ms without)"
    )
