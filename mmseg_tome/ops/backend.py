"""Which implementation runs: Triton kernels on a GPU that has them, torch everywhere else."""

import functools
import importlib
import importlib.util
import os
import warnings

import torch
from torch import Tensor

from mmseg_tome.errors import UserError
from mmseg_tome.ops.tracing import is_compiling, is_transformed
from mmseg_tome.ops.twins import replaceable

BACKENDS = ("auto", "torch", "triton")
VARIABLE = "MMSEG_TOME_BACKEND"
"""Environment variable with the backend that a process starts with."""

HAVE_OPERATORS = hasattr(torch.library, "register_autograd")
"""Whether this torch, 2.4 or later, can hold the kernels as operators."""
HAVE_TRITON = HAVE_OPERATORS and importlib.util.find_spec("triton") is not None

_requested = "auto"
_interpreted = False


class BackendError(UserError, RuntimeError):
    """The requested backend does not exist, is not installed or cannot run on a device."""


def set_backend(name: str) -> None:
    """Choose the implementation of all operations in this process.

    Args:
        name: `auto`, the default, takes Triton for tensors on a GPU where it can run, and torch
            elsewhere; `torch`; or `triton`, which is an error where it cannot run. Tensors of
            float64 always use torch, and so does what is transformed, see `tracing.is_transformed`.

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
        _interpreted = _is_interpreted()
    _requested = name


def get_backend() -> str:
    """The name given to `set_backend`, or in the environment variable `MMSEG_TOME_BACKEND`."""
    return _requested


@replaceable
def use_triton(*tensors: Tensor) -> bool:
    """Whether the kernels run on these tensors of one operation, all on one device.

    Raises:
        BackendError: Triton was asked for and cannot run on this device.
    """
    if _requested == "torch" or any(t.dtype == torch.float64 for t in tensors):
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
    """Why Triton cannot run on this GPU, said in a warning where it is installed."""
    problem = _import_problem()
    if problem is None and torch.cuda.get_device_capability(index) < (8, 0):
        problem = f"{torch.cuda.get_device_name(index)} is older than compute capability 8.0"
    if problem and HAVE_TRITON:
        warnings.warn(f"token merging runs without its Triton kernels: {problem}", stacklevel=3)
    return problem


def _import_problem() -> str | None:
    """Why Triton cannot be imported, None if it can."""
    if not HAVE_OPERATORS:
        return f"torch {torch.__version__} is too old for its operators: 2.4 or later is needed"
    if not HAVE_TRITON:
        return "Triton is not installed"
    try:
        importlib.import_module("triton.language")
    except Exception as error:  # a build that does not fit the machine raises what it likes
        return f"Triton cannot be imported: {type(error).__name__}: {error}"
    return None


def _is_interpreted() -> bool:
    """Whether Triton was imported with TRITON_INTERPRET=1, which is then settled for good."""
    language = importlib.import_module("triton.language")
    return type(language.cdiv).__name__ == "InterpretedFunction"


set_backend(os.environ.get(VARIABLE, "auto"))
