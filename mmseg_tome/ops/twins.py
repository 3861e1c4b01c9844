"""Functions that another one takes the place of while a model is exported, in one thread alone.

An export needs some functions in other operators. A function under `replaceable` runs its twin
within the context of `replaced`, or, if it has a twin for ONNX, while `torch.onnx.export` traces;
other threads, and all code outside of the context, run the function itself.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch

from mmseg_tome.ops.tracing import is_compiling, is_dynamo_compiling

_twins: ContextVar[Mapping[Callable, Callable]] = ContextVar(
    "mmseg_tome_twins", default=MappingProxyType({})
)
_for_onnx: dict[Callable, Callable] = {}


def replaceable(function: Callable) -> Callable:
    """Decorator: let `replaced` put a twin in the place of a function or method."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if is_dynamo_compiling():  # it inlines the function, and cannot read a ContextVar
            return function(*args, **kwargs)
        return _twins.get().get(call, _in_onnx_export(call, function))(*args, **kwargs)

    return call


def onnx_twin_of(function: Callable) -> Callable[[Callable], Callable]:
    """Decorator: run this in the place of a replaceable function in anybody's ONNX export."""

    def register(twin: Callable) -> Callable:
        _for_onnx[function] = twin
        return twin

    return register


@contextmanager
def replaced(twins: Mapping[Callable, Callable]) -> Iterator[None]:
    """Within the context, in this thread, replaceable functions are others: `{function: twin}`."""
    token = _twins.set({**_twins.get(), **twins})
    try:
        yield
    finally:
        _twins.reset(token)


def _in_onnx_export(call: Callable, function: Callable) -> Callable:
    tracing = torch.jit.is_tracing() or is_compiling()  # cheaper to ask than whether for ONNX
    return _for_onnx.get(call, function) if tracing and torch.onnx.is_in_onnx_export() else function
