"""The parts of a forward pass, and which of them runs at any moment."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mmcv.cnn import is_norm
from mmseg.models.backbones import mit as stock
from mmseg.models.utils import PatchEmbed as StockPatchEmbed
from torch import nn

from mmseg_tome.merging import SlotMap
from mmseg_tome.merging.attention import MergedAttention, TokenMerger
from mmseg_tome.nets.layers import MixFFN
from mmseg_tome.nets.mix_transformer import PatchEmbed

from . import peer

OTHER = "other"
REST = "rest"
PARTS = {
    "attention": "attention with its projections, and what its module does besides the parts below",
    "match": "finding the slot map: similarities, choice, index maps",
    "merge": "averaging the tokens of each slot",
    "unmerge": "every token reads its slot back; ours with the residual and the norm behind it, "
    "which are one kernel",
    "reduction": "spatial reduction of keys and values: the convolution, without its norm",
    "ffn": "MixFFN",
    "norms": "every other norm of the backbone, ours with the residual before it",
    "embedding": "patch embedding of every stage, without its norm",
    "head": "the head, its norms included",
    OTHER: "operators outside of these modules, such as resizing of the image",
}
"""What each part holds, in the order of reports: attention, what merging adds to it, the others.
Parts nest; a part is what it does itself, without the parts inside."""

_TYPES = (
    (PatchEmbed, "embedding"),
    (StockPatchEmbed, "embedding"),
    (TokenMerger, "match"),
    (MergedAttention, "attention"),
    (stock.EfficientMultiheadAttention, "attention"),  # peer.PeerAttention is one of these
    (MixFFN, "ffn"),
    (stock.MixFFN, "ffn"),
)


@dataclass(eq=False)
class Call:
    """One run of a part; two runs of the same part are different calls."""

    part: str


@contextmanager
def watch(net: nn.Module, on_change: Callable[[Call], None]) -> Iterator[None]:
    """Report which part of a pipeline runs, whenever it changes, inside the context.

    A pass begins in `OTHER`; on the way back from a part the call around it is reported again.
    Modules are told apart by their types, with forward hooks; merging is a few functions, which are
    wrapped. Leaving the context removes all of it.

    Args:
        net: A `networks.Pipeline`, ours or the peer's.
        on_change: Takes the call that now runs.
    """
    stack: list[Call] = []

    def enter(part: str) -> None:
        stack.append(Call(part))
        on_change(stack[-1])

    def leave() -> None:
        stack.pop()
        on_change(stack[-1] if stack else Call(OTHER))

    def wrapped(function: Callable, part: str, runs: Callable = lambda *_: True) -> Callable:
        def run(*args, **kwargs):
            if not runs(*args):
                return function(*args, **kwargs)
            enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                leave()

        return run

    make_merger = peer.make_merger

    def make_watched_merger(*args):
        merge, unmerge = wrapped(make_merger, "match")(*args)
        return wrapped(merge, "merge"), wrapped(unmerge, "unmerge")

    with ExitStack() as undo:
        for module, part in _modules(net):
            # `part` as a default: a closure would see the last one only.
            before = module.register_forward_pre_hook(
                lambda _, inputs, part=part: enter("unmerge" if _unmerges(part, inputs) else part)
            )
            after = module.register_forward_hook(lambda *_: leave())
            undo.callback(before.remove)
            undo.callback(after.remove)
        for name, function in inspect.getmembers(SlotMap, inspect.isfunction):
            for part in ("merge", "unmerge"):
                if name.startswith(part):
                    undo.callback(setattr, SlotMap, name, function)
                    setattr(SlotMap, name, wrapped(function, part, _merges))
        undo.callback(setattr, peer, "make_merger", make_merger)
        peer.make_merger = make_watched_merger
        yield


def _unmerges(part: str, inputs: tuple) -> bool:
    """Whether a norm is given a map that it unmerges an update by."""
    return part == "norms" and any(isinstance(x, SlotMap) and _merges(x) for x in inputs)


def _merges(slots: SlotMap, *_) -> bool:
    """Whether a map merges anything: the identity's residual is a part of attention."""
    return slots.num_slots < slots.slot.shape[1]


def _modules(net: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in net.backbone.modules():
        if is_norm(module):
            yield module, "norms"
        elif part := next((part for kind, part in _TYPES if isinstance(module, kind)), None):
            yield module, part
            if part == "attention" and getattr(module, "sr", None) is not None:
                yield module.sr, "reduction"
    yield net.head, "head"
