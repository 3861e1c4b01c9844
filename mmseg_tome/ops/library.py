"""Triton kernels as operators of torch, with shapes and gradients.

A compiler sees an operator as one opaque call with a known result shape, so models compile
without graph breaks. Without a compiler an operator is called past torch's dispatcher, which
would take longer than the launch itself. Triton is imported when the first operator runs.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

from mmseg_tome.ops.backend import is_compiling

# `Library` rather than `custom_op`, which adds checks of its own to every call.
_LIBRARY = torch.library.Library("mmseg_tome", "DEF")


class Operator:
    """A function of tensors, the first of them never None, as an operator of torch.

    Args:
        schema: Name, arguments and results in torch's notation.
        fake: Gives results of the right shapes and data types, for compilers.
        run: Computes them.
    """

    def __init__(self, schema: str, fake: Callable, run: Callable):
        self.name = schema.partition("(")[0]
        self.run = _on_the_device_of_its_input(run)
        self._differentiable: Callable | None = None
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(self.name, self.run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"mmseg_tome::{self.name}", fake, lib=_LIBRARY)
        self.registered = getattr(torch.ops.mmseg_tome, self.name).default

    def __call__(self, *args):
        # What traces without a compiler, such as torch's checks of operators, has special tensors.
        if is_compiling() or type(args[0]) not in (Tensor, Parameter):
            return self.registered(*args)
        if self._differentiable and torch.is_grad_enabled() and any(map(_requires_grad, args)):
            return self._differentiable(*args)
        return self.run(*args)

    def set_gradient(self, backward: Callable, save: Callable) -> None:
        """Give the operator its gradient.

        Args:
            backward: `(ctx, *grads)` to a gradient or None for each argument; `grads` may be None.
            save: `(ctx, inputs, output)`, keeps what `backward` needs.
        """

        def setup(ctx, inputs, output):
            ctx.set_materialize_grads(False)
            save(ctx, inputs, output)

        torch.library.register_autograd(
            f"mmseg_tome::{self.name}", backward, setup_context=setup, lib=_LIBRARY
        )
        functions = dict(forward=self.run, setup_context=setup, backward=backward)
        functions = {name: staticmethod(function) for name, function in functions.items()}
        self._differentiable = type(self.name, (torch.autograd.Function,), functions).apply


def operator(schema: str, fake: Callable) -> Callable[[Callable], Operator]:
    """Decorator: make a function an `Operator`."""
    return lambda run: Operator(schema, fake, run)


def _on_the_device_of_its_input(run: Callable) -> Callable:
    def on_its_device(first: Tensor, *args):
        # Triton launches on the current device.
        if not first.is_cuda or first.get_device() == torch.cuda.current_device():
            return run(first, *args)
        with torch.cuda.device_of(first):
            return run(first, *args)

    return on_its_device


def _requires_grad(argument) -> bool:
    return isinstance(argument, Tensor) and argument.requires_grad
