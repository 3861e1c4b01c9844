"""Half precision without autocast: weights are cast once, and inputs at the door."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def to_half(module: nn.Module, dtype: torch.dtype) -> Callable[[], None]:
    """Cast a module's weights, except for batch norms, whose statistics fold in float32.

    Returns:
        Puts the weights back that were there.
    """
    before = []
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            continue
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.is_floating_point():
                before.append((part, name, parameter))
                cast = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                setattr(part, name, cast)

    def restore() -> None:
        for part, name, parameter in before:
            setattr(part, name, parameter)

    return restore


class InDtype:
    """A function of tensors on inputs of one data type, its results in another.

    Args:
        function: From (lists of) tensors to (lists of) tensors; what is none, or holds no
            floating-point numbers, stays as it is.
        dtype: What its inputs are cast to.
        result: What its results are cast to; None leaves them.
    """

    def __init__(self, function: Callable, dtype: torch.dtype, result: torch.dtype | None):
        self.function, self.dtype, self.result = function, dtype, result

    def __call__(self, *args, **kwargs):
        args, kwargs = _cast((args, kwargs), self.dtype)
        out = self.function(*args, **kwargs)
        return out if self.result is None else _cast(out, self.result)


def _cast(values, dtype: torch.dtype):
    def cast(x):
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    return tree_map(cast, values)
