"""The operations on slot maps as operators of torch."""

import torch

from mmseg_tome.ops import segment
from mmseg_tome.ops.library import is_opaque, operator


def _match_shapes(metric, src, dst, tf32):
    shape = (metric.shape[0], src.shape[0])
    return metric.new_empty(shape, dtype=torch.float32), src.new_empty(shape)


@operator(
    "match(Tensor metric, Tensor src, Tensor dst, bool tf32) -> (Tensor, Tensor)", _match_shapes
)
def match(metric, src, dst, tf32):
    from mmseg_tome.ops import matching_triton

    return matching_triton.match(metric, src, dst, tf32)


def _assign_shapes(similarity, nearest, r, src, dst, num_tokens):
    slot = nearest.new_empty(nearest.shape[0], num_tokens)
    return slot, *_order_shapes(slot, num_tokens - r)


@operator(
    "assign_ordered(Tensor similarity, Tensor nearest, SymInt r, Tensor src, Tensor dst, "
    "SymInt num_tokens) -> (Tensor, Tensor, Tensor)",
    _assign_shapes,
)
def assign_ordered(similarity, nearest, r, src, dst, num_tokens):
    from mmseg_tome.ops import assignment_triton

    return assignment_triton.assign_ordered(similarity, nearest, r, src, dst, num_tokens)


def _order_shapes(slot, num_slots):
    offsets = slot.new_empty(slot.shape[0], num_slots + 1, dtype=torch.int32)
    return slot.new_empty(slot.shape, dtype=torch.int32), offsets


@operator("segment_order(Tensor slot, SymInt num_slots) -> (Tensor, Tensor)", _order_shapes)
def segment_order(slot, num_slots):
    from mmseg_tome.ops import segment_triton

    return segment_triton.segment_order(slot, num_slots)


def _attend_shape(q, k, v, bias):
    batch, heads, queries, size = q.shape
    return q.new_empty(batch, queries, heads, size).transpose(1, 2)


@operator("attend(Tensor q, Tensor k, Tensor v, Tensor bias) -> Tensor", _attend_shape)
def attend(q, k, v, bias):
    from mmseg_tome.ops import attention_triton

    return attention_triton.attend(q, k, v, bias)


def _log_sizes_shape(offsets, dtype):
    return offsets.new_empty(offsets.shape[0], (offsets.shape[1] + 6) // 8 * 8, dtype=dtype)


@operator("log_sizes(Tensor offsets, ScalarType dtype) -> Tensor", _log_sizes_shape)
def log_sizes(offsets, dtype):
    from mmseg_tome.ops import segment_triton

    return segment_triton.log_sizes(offsets, dtype)


def _window_shape(metric, hw, stride):
    windows = -(-hw[0] // stride[0]) * -(-hw[1] // stride[1])
    return metric.new_empty(metric.shape[0], windows, dtype=torch.float32)


@operator("window_similarity(Tensor metric, SymInt[] hw, SymInt[] stride) -> Tensor", _window_shape)
def window_similarity(metric, hw, stride):
    from mmseg_tome.ops import local_triton

    return local_triton.window_similarity(metric, hw, stride)


def _assigned_shapes(similarity, counts, num_slots, hw, stride):
    slot = similarity.new_empty(similarity.shape[0], hw[0] * hw[1], dtype=torch.int64)
    return slot, similarity.new_empty(similarity.shape[0], num_slots + 1, dtype=torch.int32)


@operator(
    "assign_windows(Tensor similarity, SymInt[] counts, SymInt num_slots, SymInt[] hw,"
    " SymInt[] stride) -> (Tensor, Tensor)",
    _assigned_shapes,
)
def assign_windows(similarity, counts, num_slots, hw, stride):
    from mmseg_tome.ops import local_triton

    return local_triton.assign_windows(similarity, counts, num_slots, hw, stride)


def _reduce_shape(x, slot, tokens, offsets, largest, mean):
    return x.new_empty(x.shape[0], offsets.shape[1] - 1, x.shape[2])


@operator(
    "reduce(Tensor x, Tensor slot, Tensor tokens, Tensor offsets, SymInt largest, bool mean)"
    " -> Tensor",
    _reduce_shape,
)
def reduce(x, slot, tokens, offsets, largest, mean):
    from mmseg_tome.ops import segment_triton

    return segment_triton.reduce(x, slot, tokens, offsets, largest, mean)


def _expand_shape(y, slot, tokens, offsets, largest, residual, mean):
    dtype = y.dtype if residual is None else torch.promote_types(y.dtype, residual.dtype)
    return y.new_empty(y.shape[0], slot.shape[1], y.shape[2], dtype=dtype)


@operator(
    "expand(Tensor y, Tensor slot, Tensor? tokens, Tensor? offsets, SymInt? largest,"
    " Tensor? residual, bool mean) -> Tensor",
    _expand_shape,
)
def expand(y, slot, tokens, offsets, largest, residual, mean):
    from mmseg_tome.ops import segment_triton

    return segment_triton.expand(y, slot, offsets, residual, mean)


# `reduce` and `expand` are linear, and each other's gradient, so to any order; a transform of
# `torch.func` needs torch's operations.


def _save_for_expand(ctx, inputs, output):
    _, slot, tokens, offsets, ctx.largest, ctx.mean = inputs
    ctx.save_for_backward(slot, tokens, offsets)


def _reduce_backward(ctx, grad):
    slot, tokens, offsets = ctx.saved_tensors
    if is_opaque(grad):
        grad_x = segment.expand(grad, slot, ctx.mean)
    else:
        grad_x = expand(grad, slot, tokens, offsets, ctx.largest, None, ctx.mean)
    return grad_x, None, None, None, None, None


def _save_for_reduce(ctx, inputs, output):
    y, slot, tokens, offsets, ctx.largest, residual, ctx.mean = inputs
    ctx.num_slots, ctx.dtype = y.shape[1], y.dtype
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.save_for_backward(slot, tokens, offsets)


def reduce_by(grad, slot, tokens, offsets, largest, num_slots, mean):
    """`reduce` for gradients: with or without the map's order, in a transform, too."""
    if is_opaque(grad):
        return segment.reduce(grad, slot, num_slots, mean)
    if tokens is None:
        (tokens, offsets), largest = segment_order(slot, num_slots), slot.shape[1]
    return reduce(grad, slot, tokens, offsets, largest, mean)


def _expand_backward(ctx, grad):
    grad_y = grad_residual = None
    if ctx.needs_input_grad[0]:
        slot, tokens, offsets = ctx.saved_tensors
        order = tokens, offsets, ctx.largest
        grad_y = reduce_by(grad, slot, *order, ctx.num_slots, ctx.mean).to(ctx.dtype)
    if ctx.needs_input_grad[5]:
        grad_residual = grad.to(ctx.residual_dtype)
    return grad_y, None, None, None, None, grad_residual, None


reduce.set_gradient(_reduce_backward, _save_for_expand)
expand.set_gradient(_expand_backward, _save_for_reduce)
