"""The pipelines that are compared: what each is made of, and how its kernels are launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from mmseg_tome.runtime.graphs import CudaGraphs, Graphed, graphed_parts, install

from . import cases, peer


def as_built(net: cases.Pipeline) -> cases.Pipeline:
    """Change nothing: stock modules, launched eagerly."""
    return net


def fuse_attention(net: cases.Pipeline) -> cases.Pipeline:
    """Let the peer compute attention without its matrices, in place."""
    peer.fuse_attention(net.backbone)
    return net


def by_graphs(net: cases.Pipeline) -> cases.Pipeline:
    """Run backbone and head as CUDA graphs, in place, as `acceleration.accelerate` does.

    The first call captures. Has no effect on a CPU, nor where a head's place is taken by something
    without weights.
    """
    memory = CudaGraphs()
    for part in _parts(net):
        install(part, "inference", patience=0, capture=memory)
    return net


def by_training_graphs(net: cases.Pipeline) -> cases.Pipeline:
    """Train the backbone by CUDA graphs, in place, as `FastTrainingHook` does."""
    install(net.backbone, "training", patience=0, capture=CudaGraphs())
    return net


def compiled(net: cases.Pipeline) -> cases.Pipeline:
    """Compile backbone and head by inductor, in place; the first call does.

    In torch's default mode: the others tune single matrix products for minutes, or capture CUDA
    graphs of their own, which fall back silently. Here graphs are captured as ours are.
    """
    for part in _parts(net):
        part.forward = torch.compile(part.forward, dynamic=False)
    return net


def _parts(net: cases.Pipeline) -> list[nn.Module]:
    return [part for part in (net.backbone, net.head) if next(part.parameters(), None) is not None]


@dataclass(frozen=True)
class Recipe:
    """How one pipeline is made.

    Attributes:
        name: What reports call it.
        of_peer: Whether it is the stock model with tomesd merging, see `cases.build`.
        finish: Changes the built network in place.
        launch: Gives what is timed, once the eager network was inspected.
        launch_training: The same for training steps.
    """

    name: str
    of_peer: bool
    finish: Callable[[cases.Pipeline], cases.Pipeline] = as_built
    launch: Callable[[cases.Pipeline], nn.Module] = as_built
    launch_training: Callable[[cases.Pipeline], nn.Module] = as_built

    @property
    def layout(self) -> str:
        """Which of a run's weights it takes, see `runner.Weights`."""
        return "peer" if self.of_peer else "ours"

    @property
    def is_launched(self) -> bool:
        """Whether it is another pipeline, launched in another way."""
        return self.launch is not as_built


OURS = Recipe("ours", of_peer=False)
GRAPHS = Recipe("ours, graphs", False, launch=by_graphs, launch_training=by_training_graphs)
PEER = Recipe("peer", of_peer=True)
FUSED_PEER = Recipe("fused peer", of_peer=True, finish=fuse_attention)
COMPILED_PEER = Recipe(
    "compiled stock",
    of_peer=True,
    finish=fuse_attention,
    launch=lambda net: by_graphs(compiled(net)),
    launch_training=lambda net: by_training_graphs(compiled(net)),
)

ALL = {recipe.name: recipe for recipe in (OURS, GRAPHS, PEER, FUSED_PEER, COMPILED_PEER)}
"""By name, in the order of reports."""


def is_ours(name: str) -> bool:
    """Whether a pipeline of this name is ours."""
    return not ALL[name].of_peer


def launch_of(net: nn.Module) -> str:
    """How the kernels of a network are launched, read off it after it ran."""
    captured = {captured for part in graphed_parts(net) for captured in part.captured}
    launch = {
        frozenset(): "eager",  # on a CPU nothing is captured
        frozenset({True}): "CUDA graphs",
        frozenset({False}): "eager, since no CUDA graph could be captured",
        frozenset({True, False}): "CUDA graphs in part, since not all could be captured",
    }[frozenset(captured)]
    if not _is_compiled(net):
        return launch
    return "torch.compile" if launch == "eager" else f"torch.compile; {launch}"


def _is_compiled(net: nn.Module) -> bool:
    if hasattr(net, "_orig_mod"):
        return True
    forwards = [module.__dict__.get("forward") for module in net.modules()]
    functions = [f.function if isinstance(f, Graphed) else f for f in forwards]
    return any(hasattr(function, "_torchdynamo_orig_callable") for function in functions)
