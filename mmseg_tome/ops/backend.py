"""Which implementation of an operation runs: Triton kernels, operators that ONNX has, or torch."""

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mmseg_tome.errors import UserError

BACKENDS = ("auto", "torch", "triton")
VARIABLE = "MMSEG_TOME_BACKEND"
"""Environment variable with the backend that a process starts with."""

HAVE_TRITON = importlib.util.find_spec("triton") is not None

_requested = "auto"
_interpreted = False

is_compiling = torch.compiler.is_compiling
is_dynamo_compiling = torch.compiler.is_dynamo_compiling


class BackendError(UserError, RuntimeError):
    """The requested backend does not exist, is not installed or cannot run on a device."""


def set_backend(name: str) -> None:
    """Choose the implementation of all operations in this process.

    Args:
        name: `auto`, the default, takes Triton for tensors on a GPU where it can run, and torch
            elsewhere; `torch`; or `triton`, which is an error where it cannot run. Tensors of
            float64, `torch.func` transforms and exports always use torch.

    Raises:
        BackendError: No such backend, or Triton cannot be imported.
    """
    global _requested, _interpreted
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; allowed: {', '.join(BACKENDS)}")
    if name == "triton":
        problem = _import_problem()
        if problem:
            raise BackendError(f"the backend 'triton' was asked for, but {problem}")
        # Whether TRITON_INTERPRET=1 was set when Triton was imported, which settles it for good.
        cdiv = importlib.import_module("triton.language").cdiv
        _interpreted = type(cdiv).__name__ == "InterpretedFunction"
    _requested = name


def get_backend() -> str:
    """The name given to `set_backend`, or in the environment variable `MMSEG_TOME_BACKEND`."""
    return _requested


@dataclass(frozen=True)
class Export:
    """What a model is being traced for.

    Attributes:
        onnx: ONNX, rather than torch's own format.
        any_size: Images of any size. Otherwise index maps of the grid become constants; the model
            must have run once at the size that is traced, so that they are in their caches.
        scores: Bytes of attention scores of a sample that may exist at a time; 0 for all.
        executorch: Of what ONNX has, the forms that ExecuTorch is fast at: it copies what only
            changes its shape. Those for Core ML and LiteRT, too.
    """

    onnx: bool
    any_size: bool = False
    scores: int = 0
    executorch: bool = False


_export: ContextVar[Export | None] = ContextVar("mmseg_tome_export", default=None)
_BY_TORCHS_EXPORTER = Export(onnx=True, any_size=True)


@contextmanager
def exporting(export: Export) -> Iterator[None]:
    """Choose implementations for an export inside the context, in this thread alone."""
    token = _export.set(export)
    try:
        yield
    finally:
        _export.reset(token)


def current_export() -> Export | None:
    """What is being exported in this thread, by `exporting` or by `torch.onnx.export` itself."""
    if is_dynamo_compiling():  # it cannot read a ContextVar
        return None
    export = _export.get()
    if export is None and (torch.jit.is_tracing() or is_compiling()):  # cheap to ask
        return _BY_TORCHS_EXPORTER if torch.onnx.is_in_onnx_export() else None
    return export


def use_onnx() -> bool:
    """Whether operations must map to ONNX: top-k instead of sort, scatter instead of indexing.

    They are chosen for speed and correctness in ONNX Runtime on a CPU.
    """
    export = current_export()
    return export is not None and export.onnx


def use_triton(*tensors: Tensor) -> bool:
    """Whether the kernels run on these tensors of one operation, all on one device.

    Raises:
        BackendError: Triton was requested and cannot run on this device.
    """
    if _requested == "torch" or any(t.dtype == torch.float64 for t in tensors):
        return False
    if current_export() is not None:  # a kernel is an operator of neither format
        return False
    # ROCm devices are called cuda, too.
    device = tensors[0].device
    if _requested == "triton":
        if device.type != "cuda" and not _interpreted:
            raise BackendError(
                f"the backend 'triton' was asked for, but a tensor is on {device}: Triton needs a "
                "CUDA or ROCm device, or its interpreter: TRITON_INTERPRET=1 in the environment "
                "before Triton is first imported"
            )
    elif device.type != "cuda":
        return False
    if is_compiling():  # a compiler cannot trace the look at the device; it needs Triton itself
        return HAVE_TRITON
    if is_transformed():
        return False
    return _requested == "triton" or _device_problem(device.index) is None


@functools.cache
def _device_problem(index: int) -> str | None:
    """Why Triton cannot run on this GPU, with a warning if it is installed."""
    problem = _import_problem()
    if problem is None and torch.cuda.get_device_capability(index) < (8, 0):
        problem = f"{torch.cuda.get_device_name(index)} is older than compute capability 8.0"
    if problem and HAVE_TRITON:
        warnings.warn(f"token merging runs without its Triton kernels: {problem}", stacklevel=3)
    return problem


def _import_problem() -> str | None:
    """Why Triton cannot be imported, None if it can."""
    if not HAVE_TRITON:
        return "Triton is not installed"
    try:
        importlib.import_module("triton.language")
    except Exception as error:  # a build for another machine can raise anything
        return f"Triton cannot be imported: {type(error).__name__}: {error}"
    return None


def is_transformed() -> bool:
    """Whether `torch.func`, forward-mode gradients or `torch.jit.trace` follow what runs.

    A kernel is opaque to all three: tangents and recorded operations would be lost silently.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.jit.is_tracing()
    )


def is_watched() -> bool:
    """Whether a dispatch mode, such as that of fake tensors, sees every operation that runs."""
    return torch._C._len_torch_dispatch_stack() > 0


def is_faked() -> bool:
    """Whether a fake, proxy or functional tensor mode of torch is active."""
    kinds = (getattr(torch._C._TorchDispatchModeKey, n) for n in ("FAKE", "PROXY", "FUNCTIONAL"))
    return any(torch._C._get_dispatch_mode(kind) is not None for kind in kinds)


set_backend(os.environ.get(VARIABLE, "auto"))
