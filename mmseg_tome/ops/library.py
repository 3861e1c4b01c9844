"""Triton kernels as operators of torch, with shapes and gradients.

A compiler sees an operator as one opaque call with a known result shape, so models compile
without graph breaks. Without a compiler an operator is called past torch's dispatcher, which
would take longer than the launch itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mmseg_tome.ops.backend import is_compiling, is_transformed, is_watched

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
        self.run = run
        self._differentiable: Callable | None = None
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(self.name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"mmseg_tome::{self.name}", fake, lib=_LIBRARY)
        self.registered = getattr(torch.ops.mmseg_tome, self.name).default

    def __call__(self, *args):
        # What traces without a compiler, such as torch's checks of operators, has special tensors
        # or watches all that runs; to what it sees a kernel must be one operation.
        if is_compiling() or is_watched() or type(args[0]) not in (Tensor, Parameter):
            return self.registered(*args)
        if self._differentiable and torch.is_grad_enabled() and any(map(_requires_grad, args)):
            return self._differentiable(*args)
        return self.run(*args)

    def set_gradient(self, backward: Callable, save: Callable) -> None:
        """Give the operator its gradient.

        Args:
            backward: `(ctx, *grads)` to a gradient or None for each argument; `grads` may be None,
                one at least is not. Where `by_torch` holds, it has to be differentiable itself.
            save: `(ctx, inputs, output)`, keeps what `backward` needs.
        """

        def setup(ctx, inputs, output):
            ctx.set_materialize_grads(False)
            save(ctx, inputs, output)
            ctx.num_inputs = len(inputs)

        def unless_undefined(ctx, *grads):
            if all(grad is None for grad in grads):  # what is behind has no gradient
                return (None,) * ctx.num_inputs
            return backward(ctx, *grads)

        torch.library.register_autograd(
            f"mmseg_tome::{self.name}", unless_undefined, setup_context=setup, lib=_LIBRARY
        )
        functions = dict(forward=self.run, setup_context=setup, backward=unless_undefined)
        functions = {name: staticmethod(function) for name, function in functions.items()}
        function: Any = type(self.name, (torch.autograd.Function,), functions)
        self._differentiable = function.apply


def operator(schema: str, fake: Callable) -> Callable[[Callable], Operator]:
    """Decorator: make a function an `Operator`."""
    return lambda run: Operator(schema, fake, run)


def _requires_grad(argument: object) -> bool:
    return isinstance(argument, Tensor) and argument.requires_grad


def by_torch(*grads: Tensor | None) -> bool:
    """Whether a gradient must be computed by torch's operations.

    It is differentiated in turn in a backward pass under `create_graph`, or `is_opaque`.
    """
    return torch.is_grad_enabled() or is_opaque(*grads)


def is_opaque(*grads: Tensor | None) -> bool:
    """Whether a backward pass is transformed, or its gradients are many at once: no kernel can run.

    The latter are those of `torch.autograd.grad(..., is_grads_batched=True)`.
    """
    if is_compiling():
        return False
    is_batched = torch._C._functorch.is_legacy_batchedtensor
    return is_transformed() or any(grad is not None and is_batched(grad) for grad in grads)


def differentiable_gradient(
    function: Callable, inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The gradient of a function in torch, with a graph, so right to any order.

    Args:
        function: From `inputs` to one tensor or several, the operator's in torch.
        inputs: All of the tensors that may need a gradient.
        grads: Gradient of each result, None for a result that has none.

    Returns:
        The gradient of each input, None where it needs none.
    """
    # A penalty on gradients may well be computed under autocast, which is not for backward passes.
    with torch.enable_grad(), torch.autocast(inputs[0].device.type, enabled=False):
        # Views, so that the gradient of one input is not also taken through another.
        views = [x.view_as(x) for x in inputs]
        results = function(*views)
        results = (results,) if isinstance(results, Tensor) else results
        pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None]
        wanted = [view for view in views if view.requires_grad]
        results, grads = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(results, wanted, grads, create_graph=True))
    return tuple(next(found) if view.requires_grad else None for view in views)
