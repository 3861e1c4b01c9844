"""Independent work at the same time on one GPU."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from mmseg_tome.ops.backend import is_compiling

First = TypeVar("First")
Second = TypeVar("Second")


def side_by_side(
    first: Callable[[], First], second: Callable[[], Second], x: Tensor
) -> tuple[First, Second]:
    """Run two functions that do not need each other, in a CUDA graph as parallel branches.

    Many kernels of merging occupy a few multiprocessors; the convolution that reduces keys and
    values can run beside them. Without a graph the launches of a second stream cost more than
    that gains, so elsewhere the functions run one after the other.

    Args:
        first: Runs on a stream of its own.
        second: Runs on the current stream.
        x: A tensor on the device that both work on.
    """
    if (
        is_compiling()
        or torch.is_grad_enabled()  # a backward pass would have to fork and join as well
        or not x.is_cuda
        or not torch.cuda.is_current_stream_capturing()
    ):
        return first(), second()
    main, side = torch.cuda.current_stream(), _side_stream(x.device)
    # Memory is safe: what is freed on either stream is used again only after the next of these
    # two waits, which the other stream's work so far precedes.
    side.wait_stream(main)
    with torch.cuda.stream(side):
        one = first()
    two = second()
    main.wait_stream(side)
    return one, two


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
