"""Triton kernels that are launched without torch's dispatcher, which no counter of torch sees."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mmseg_tome.ops.backend import HAVE_TRITON


def _match(metric, num_src: int, num_dst: int, **_) -> int:
    batch, _, channels = metric.shape
    return 2 * batch * num_src * num_dst * channels


def _depthwise(x, **_) -> int:
    return 2 * 9 * x.numel()


def _gradient(x, **_) -> int:
    return 2 * _depthwise(x)  # the convolution once more, and the gradient of its weight


FLOPS: dict[str, Callable[..., int]] = {
    "_match_kernel": _match,
    "_depthwise_kernel": _depthwise,
    "_gradient_kernel": _gradient,
}
"""FLOPs of one launch, by the kernel's name, given its arguments by name. A kernel that multiplies
matrices or convolves needs its formula here; an operator that is registered with torch, in
`measure`."""


@contextmanager
def watch_launches(on_launch: Callable[[str, dict, int], None]) -> Iterator[None]:
    """Report every launch inside the context: the kernel's name, its arguments, its FLOPs."""
    if not HAVE_TRITON or not (torch.cuda.is_available() or "triton" in sys.modules):
        yield
        return
    from mmseg_tome.ops import launching  # only now: it imports Triton

    def watcher(name: str, arguments: dict) -> None:
        on_launch(name, arguments, FLOPS[name](**arguments) if name in FLOPS else 0)

    with launching.watch_launches(watcher):
        yield
