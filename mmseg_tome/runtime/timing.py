"""Timing of a stage's blocks on what a run gives them. Nothing of the model changes by it."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_tome.merging import StageMerging
from mmseg_tome.merging.attention import Grid, MergedAttention, PassGrid, let_merge
from mmseg_tome.nets import MixVisionTransformer
from mmseg_tome.runtime.capture import CudaGraphs
from mmseg_tome.runtime.graphs import suspended
from mmseg_tome.runtime.merging_switch import merging_backbone

ROUNDS = 5
WARM_UP = 2

Result = TypeVar("Result")


class StageInputs(NamedTuple):
    """What enters a stage's first block: tokens `[B, H * W, C]` and their grid."""

    x: Tensor
    hw: Grid


def stage_seconds(
    blocks: Sequence[nn.Module],
    inputs: StageInputs,
    merging: StageMerging,
    training: bool,
    graphs: bool,
) -> float:
    """Estimate the time of a stage's blocks by that of its first one.

    Args:
        blocks: All of the stage, in eval mode: without dropout, no random numbers are drawn.
        inputs: What enters the first one.
        merging: How the stage merges.
        training: Whether to time the backward pass, too.
        graphs: Whether to time replays of a CUDA graph.
    """
    block, device = blocks[0], inputs.x.device
    matching = -(-len(blocks) // merging.reuse)  # blocks that find slot maps of their own
    with _merging_by(block.attn, merging):

        def timed(slots: dict | None) -> float:
            return seconds(lambda: _step(block, inputs, slots, training), device, graphs)

        total = matching * timed(None)
        if matching < len(blocks):
            found: dict = {}
            with torch.no_grad():
                block(inputs.x, PassGrid(inputs.hw, found))
            total += (len(blocks) - matching) * timed(found)
    return total


def seconds(step: Callable[[], None], device: torch.device, graphs: bool) -> float:
    """Median time of a step on a device: launches included, unless graphs replay them."""
    if device.type == "cuda" and graphs:
        step = _as_graph(step, device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    samples = []
    for _ in range(WARM_UP + ROUNDS):
        wait()
        start = time.perf_counter()
        step()
        wait()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples[WARM_UP:])


def _as_graph(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A replay of a step, or the step itself if it cannot be captured."""
    try:
        return CudaGraphs().work(step, device)
    except RuntimeError:
        return step


def _step(block: nn.Module, inputs: StageInputs, slots: dict | None, training: bool) -> None:
    x, hw = inputs.x, PassGrid(inputs.hw, slots)
    if not training:
        with torch.no_grad():
            block(x, hw)
        return
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        outputs = block(x, hw)
        wanted = [x, *(p for p in block.parameters() if p.requires_grad)]
        # Not accumulated: parameters' own gradients stay, and no hook on them runs.
        given = [torch.ones_like(out) for out in outputs]
        with torch.autocast(x.device.type, enabled=False):  # as a step goes backward
            torch.autograd.grad(outputs, wanted, given, allow_unused=True)


@contextmanager
def stage_inputs(backbone: MixVisionTransformer, images: Tensor) -> Iterator[list[StageInputs]]:
    """What enters each stage's blocks, which are in eval mode and run plainly inside."""
    modes = {module: module.training for module in backbone.modules()}
    found: list[StageInputs] = []

    def keep(_block: nn.Module, inputs: tuple) -> None:
        found.append(StageInputs(inputs[0].detach(), tuple(inputs[1])))

    with suspended(backbone):
        try:
            backbone.eval()
            handles = [
                blocks[0].register_forward_pre_hook(keep) for _, blocks, _ in backbone.layers
            ]
            try:
                with torch.inference_mode(False), torch.no_grad():
                    backbone(images)
            finally:
                for handle in handles:
                    handle.remove()
            yield found
        finally:
            for module, training in modes.items():
                module.training = training


@contextmanager
def _merging_by(attn: MergedAttention, merging: StageMerging) -> Iterator[None]:
    before = [(merger, dict(vars(merger))) for merger in (attn.q_merger, attn.kv_merger)]
    proportional = attn.proportional
    let_merge([attn], merging)
    try:
        yield
    finally:
        attn.proportional = proportional
        for merger, state in before:
            merger.strategy, merger.group = state["strategy"], state["group"]


@contextmanager
def as_in_the_run(images: Tensor, dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast as it will be, whose casts of weights each block pays for once a pass."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with nullcontext() if dtype is None else torch.autocast(images.device.type, dtype):
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


class _ReachedError(BaseException):
    """Ends a pass where its images reach the backbone. No `except Exception` catches it."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.images = images


def first_input(model: nn.Module, run: Callable[[], object]) -> Tensor | None:
    """What a model's backbone is given first: windows, flipped images, persons, as they come.

    Args:
        model: A model with a backbone of ours, whatever is wrapped around it.
        run: Runs the model. It is ended at the backbone; random numbers that it drew before are
            drawn again by whatever comes next. What it changes in its arguments stays changed.

    Returns:
        `[B, 3, H, W]`; None if the backbone did not run.
    """
    backbone = merging_backbone(model)

    def stop(_backbone: nn.Module, inputs: tuple) -> None:
        raise _ReachedError(inputs[0].detach())

    handle = backbone.register_forward_pre_hook(stop)
    try:
        with _same_random_numbers_after(), suspended(model):
            run()
    except _ReachedError as reached:
        return reached.images
    finally:
        handle.remove()
    return None


def with_what_fits(work: Callable[[Tensor], Result], images: Tensor) -> Result:
    """`work(images)`, or of half of them where memory does not suffice, as windows are halved."""
    while True:
        try:
            return work(images)
        except torch.cuda.OutOfMemoryError:
            if len(images) == 1:
                raise
        # Out of the handler, whose traceback keeps tensors alive.
        images = images[: len(images) // 2]
        torch.cuda.empty_cache()


@contextmanager
def _same_random_numbers_after() -> Iterator[None]:
    """Random numbers drawn inside are drawn again after it."""
    python, numpy = random.getstate(), np.random.get_state()
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.random.fork_rng([torch.cuda.current_device()] if in_use else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
