"""The Triton kernels as operators of torch, with shapes and gradients.

A compiler sees an operator as one opaque call with a known result shape, so models compile
without graph breaks. Triton itself is imported when the first operator runs.

`Library` rather than `custom_op`: a call takes 7 instead of 10 microseconds, and a forward pass
makes a few hundred.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("mmseg_tome", "DEF")


def _operator(schema: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Make a function of tensors, the first of them never None, an operator of that schema."""
    name = schema.partition("(")[0]

    def register(run: Callable) -> Callable:
        def on_its_device(first: Tensor, *args):
            with torch.cuda.device_of(first):  # where Triton launches; nothing for a CPU
                return run(first, *args)

        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, on_its_device, "CompositeExplicitAutograd")
        torch.library.register_fake(f"mmseg_tome::{name}", fake, lib=_LIBRARY)
        return getattr(torch.ops.mmseg_tome, name).default

    return register


def _match_shapes(metric, src, dst, tf32):
    shape = (metric.shape[0], src.shape[0])
    return metric.new_empty(shape, dtype=torch.float32), src.new_empty(shape)


@_operator(
    "match(Tensor metric, Tensor src, Tensor dst, bool tf32) -> (Tensor, Tensor)", _match_shapes
)
def match(metric, src, dst, tf32):
    from mmseg_tome.ops import matching_triton

    return matching_triton.match(metric, src, dst, tf32)


def _assign_shape(similarity, nearest, r, src, dst, num_tokens):
    return nearest.new_empty(nearest.shape[0], num_tokens)


@_operator(
    "assign(Tensor similarity, Tensor nearest, SymInt r, Tensor src, Tensor dst, SymInt num_tokens)"
    " -> Tensor",
    _assign_shape,
)
def assign(similarity, nearest, r, src, dst, num_tokens):
    from mmseg_tome.ops import assignment_triton

    return assignment_triton.assign(similarity, nearest, r, src, dst, num_tokens)


def _order_shapes(slot, num_slots):
    offsets = slot.new_empty(slot.shape[0], num_slots + 1, dtype=torch.int32)
    return slot.new_empty(slot.shape, dtype=torch.int32), offsets


@_operator("segment_order(Tensor slot, SymInt num_slots) -> (Tensor, Tensor)", _order_shapes)
def segment_order(slot, num_slots):
    from mmseg_tome.ops import segment_triton

    return segment_triton.segment_order(slot, num_slots)


def _reduce_shape(x, slot, tokens, offsets, mean):
    return x.new_empty(x.shape[0], offsets.shape[1] - 1, x.shape[2])


@_operator(
    "reduce(Tensor x, Tensor slot, Tensor tokens, Tensor offsets, bool mean) -> Tensor",
    _reduce_shape,
)
def reduce(x, slot, tokens, offsets, mean):
    from mmseg_tome.ops import segment_triton

    return segment_triton.reduce(x, slot, tokens, offsets, mean)


def _expand_shape(y, slot, tokens, offsets, residual, mean):
    dtype = y.dtype if residual is None else torch.promote_types(y.dtype, residual.dtype)
    return y.new_empty(y.shape[0], slot.shape[1], y.shape[2], dtype=dtype)


@_operator(
    "expand(Tensor y, Tensor slot, Tensor? tokens, Tensor? offsets, Tensor? residual, bool mean)"
    " -> Tensor",
    _expand_shape,
)
def expand(y, slot, tokens, offsets, residual, mean):
    from mmseg_tome.ops import segment_triton

    return segment_triton.expand(y, slot, offsets, residual, mean)


# `reduce` and `expand` are linear, and each other's gradient.


def _save_for_expand(ctx, inputs, output):
    _, slot, tokens, offsets, ctx.mean = inputs
    ctx.save_for_backward(slot, tokens, offsets)


def _reduce_backward(ctx, grad):
    slot, tokens, offsets = ctx.saved_tensors
    return expand(grad, slot, tokens, offsets, None, ctx.mean), None, None, None, None


def _save_for_reduce(ctx, inputs, output):
    y, slot, tokens, offsets, residual, ctx.mean = inputs
    ctx.num_slots, ctx.dtype = y.shape[1], y.dtype
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.save_for_backward(slot, tokens, offsets)


def _expand_backward(ctx, grad):
    grad_y = grad_residual = None
    if ctx.needs_input_grad[0]:
        slot, tokens, offsets = ctx.saved_tensors
        if tokens is None:
            tokens, offsets = segment_order(slot, ctx.num_slots)
        grad_y = reduce(grad, slot, tokens, offsets, ctx.mean).to(ctx.dtype)
    if ctx.needs_input_grad[4]:
        grad_residual = grad.to(ctx.residual_dtype)
    return grad_y, None, None, None, grad_residual, None


torch.library.register_autograd(
    "mmseg_tome::reduce", _reduce_backward, setup_context=_save_for_expand, lib=_LIBRARY
)
torch.library.register_autograd(
    "mmseg_tome::expand", _expand_backward, setup_context=_save_for_reduce, lib=_LIBRARY
)
