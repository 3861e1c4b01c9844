"""The pipelines that are compared: what each is made of, and how its kernels are launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mmseg_tome.engine.fast_training import GraphedTraining
from mmseg_tome.inference.acceleration import GraphedFunction

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

    Has no effect on a CPU, nor where a head's place is taken by something without weights.
    """
    for part in (net.backbone, net.head):
        if next(part.parameters(), None) is not None:
            part.forward = GraphedFunction(part.forward)
    return net


def by_training_graphs(net: cases.Pipeline) -> cases.Pipeline:
    """Train the backbone by CUDA graphs, in place, as `FastTrainingHook` does."""
    net.backbone.forward = GraphedTraining(net.backbone)
    return net


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


OURS = Recipe("ours", of_peer=False)
GRAPHS = Recipe("ours, graphs", False, launch=by_graphs, launch_training=by_training_graphs)
PEER = Recipe("peer", of_peer=True)
FUSED_PEER = Recipe("fused peer", of_peer=True, finish=fuse_attention)

ALL = {recipe.name: recipe for recipe in (OURS, GRAPHS, PEER, FUSED_PEER)}
"""By name, in the order of reports."""


def is_ours(name: str) -> bool:
    """Whether a pipeline of this name is ours."""
    return not ALL[name].of_peer


def launch_of(net: nn.Module) -> str:
    """How the kernels of a network are launched, read off it after it ran."""
    if hasattr(net, "_orig_mod"):
        return "torch.compile"
    kinds = (GraphedFunction, GraphedTraining)
    graphed = [m.forward for m in net.modules() if isinstance(m.forward, kinds)]
    captured = {captured for function in graphed for captured in function.captured}
    return {
        frozenset(): "eager",  # on a CPU nothing is captured
        frozenset({True}): "CUDA graphs",
        frozenset({False}): "eager, since no CUDA graph could be captured",
        frozenset({True, False}): "CUDA graphs in part, since not all could be captured",
    }[frozenset(captured)]
