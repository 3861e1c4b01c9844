"""Triton kernels that are launched without torch's dispatcher, which no counter of torch sees."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType

import torch


def _match(metric, num_src: int, num_dst: int, **_) -> int:
    batch, _, channels = metric.shape
    return 2 * batch * num_src * num_dst * channels


FLOPS: dict[str, Callable[..., int]] = {"_match_kernel": _match}
"""FLOPs of one launch, by the kernel's name, given its arguments by name. A kernel that multiplies
matrices needs its formula here; an operator that is registered with torch, in `measure`."""


@contextmanager
def watch_launches(on_launch: Callable[[str, dict, int], None]) -> Iterator[None]:
    """Report every launch inside the context: the kernel's name, its arguments, its FLOPs."""
    jit = _triton_jit()
    if jit is None:
        yield
        return
    get_launcher = jit.KernelInterface.__getitem__

    def watched(kernel, grid):
        launch = get_launcher(kernel, grid)

        def run(*args, **kwargs):
            arguments = {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}
            name = _function(kernel).__name__
            on_launch(name, arguments, FLOPS[name](**arguments) if name in FLOPS else 0)
            return launch(*args, **kwargs)

        return run

    jit.KernelInterface.__getitem__ = watched
    try:
        yield
    finally:
        jit.KernelInterface.__getitem__ = get_launcher


def _function(kernel) -> Callable:
    """The plain function in a kernel; an autotuner holds a kernel in turn."""
    while hasattr(kernel, "fn"):
        kernel = kernel.fn
    return kernel


def _triton_jit() -> ModuleType | None:
    name = "triton.runtime.jit"
    if name not in sys.modules and torch.cuda.is_available():  # a pass may be the first to need it
        with suppress(ImportError):
            import_module(name)
    return sys.modules.get(name)
