"""Launching Triton kernels with little work on the host.

`kernel[grid](...)` binds, checks and looks up its arguments for some 15 microseconds, which is more
than most kernels of a small batch take. Here the compiled kernel is looked up by what Triton
specialises on and launched at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import Parameter
from torch.torch_version import TorchVersion

Watcher = Callable[[str, dict], None]

_compiled: dict[tuple, tuple] = {}
_watchers: list[Watcher] = []
# Earlier versions pass other arguments to a compiled kernel; without a GPU there is only compiling.
DIRECT = TorchVersion(triton.__version__) >= "3.3" and torch.cuda.is_available()


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Launch a kernel on the device of its first argument, on the current stream there.

    Args:
        kernel: A function under `triton.jit`, whose constants come last.
        grid: Programs along up to three axes.
        *args: A tensor, then tensors, numbers and None, for all arguments that are no constants.
        **constants: The constants, and options such as `num_warps`; at each place of the code
            always in the same order.

    Raises:
        ValueError: A tensor is on another device.
    """
    device = args[0].get_device()
    if device >= 0 and device != torch.cuda.current_device():  # where Triton launches
        with torch.cuda.device(device):
            return launch(kernel, grid, *args, **constants)
    for watcher in _watchers:
        named = zip(kernel.arg_names, args, strict=False)
        watcher(kernel.fn.__name__, {**dict(named), **constants})
    if not (DIRECT and isinstance(kernel, triton.JITFunction)):  # or interpreted
        kernel[grid](*args, **constants)
        return
    key = (
        id(kernel),
        device,
        *[_specialisation(a) for a in args],
        *constants.values(),
    )
    if key not in _compiled:
        check_devices(kernel, device, args)
        # The kernel itself is kept, so that its id stays its own.
        tail = [constants[name] for name in kernel.arg_names[len(args) :]]
        _compiled[key] = kernel[grid](*args, **constants), tail, kernel
        return
    compiled, tail, _ = _compiled[key]
    compiled[(*grid, 1, 1)](*args, *tail)


def check_devices(kernel: Any, device: int, args: tuple) -> None:
    """Raise ValueError unless all tensors are on CUDA's device of this number."""
    for name, argument in zip(kernel.arg_names, args, strict=False):
        if isinstance(argument, Tensor) and argument.get_device() != device:
            raise ValueError(
                f"{kernel.fn.__name__} runs on cuda:{device}, its argument {name} is on "
                f"{argument.device}"
            )


def _specialisation(argument):
    """What of an argument a compiled kernel depends on."""
    kind = type(argument)
    if kind is Tensor or kind is Parameter:
        return argument.dtype, argument.data_ptr() & 15 == 0, argument.get_device()
    if kind is int:
        return argument if argument == 1 else (argument & 15 == 0, argument.bit_length() < 32)
    return kind


@contextmanager
def watch_launches(watcher: Watcher) -> Iterator[None]:
    """Report every launch inside the context: the kernel's name and its arguments by name."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def ceil_div(a: int, b: int) -> int:
    """`a / b` rounded up, without the wrapping of `triton.cdiv`, which costs microseconds."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least `n`."""
    return 1 << max(n - 1, 0).bit_length()
