"""The operations of a transformer block besides merging, as operators of torch."""

import functools

import torch

from mmseg_tome.ops import depthwise, normalization
from mmseg_tome.ops.labelling import Windows
from mmseg_tome.ops.library import by_torch, differentiable_gradient, operator
from mmseg_tome.ops.operators import reduce_by


def _per_token(x):
    return x.new_empty(x.shape[:2], dtype=torch.float32)


def _layer_norm_shapes(x, weight, bias, eps, dtype, shift):
    return torch.empty_like(x, dtype=dtype), _per_token(x), _per_token(x)


@operator(
    "layer_norm(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType dtype, Tensor? shift)"
    " -> (Tensor, Tensor, Tensor)",
    _layer_norm_shapes,
)
def layer_norm(x, weight, bias, eps, dtype, shift):
    from mmseg_tome.ops import normalization_triton

    return normalization_triton.layer_norm(x, weight, bias, eps, dtype, shift)


def _add_layer_norm_shapes(residual, y, slot, tokens, offsets, largest, weight, bias, eps, dtype):
    total = torch.empty_like(residual, dtype=torch.promote_types(residual.dtype, y.dtype))
    return total, torch.empty_like(residual, dtype=dtype), *(_per_token(total) for _ in range(2))


@operator(
    "add_layer_norm(Tensor residual, Tensor y, Tensor? slot, Tensor? tokens, Tensor? offsets,"
    " SymInt? largest, Tensor weight, Tensor bias, float eps, ScalarType dtype)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _add_layer_norm_shapes,
)
def add_layer_norm(residual, y, slot, tokens, offsets, largest, weight, bias, eps, dtype):
    from mmseg_tome.ops import normalization_triton

    return normalization_triton.add_layer_norm(residual, y, slot, weight, bias, eps, dtype)


def _layer_norm_backward_shapes(grad, grad_total, x, mean, inverse, weight):
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)


@operator(
    "layer_norm_backward(Tensor grad, Tensor? grad_total, Tensor x, Tensor mean, Tensor inverse,"
    " Tensor weight) -> (Tensor, Tensor, Tensor)",
    _layer_norm_backward_shapes,
)
def layer_norm_backward(grad, grad_total, x, mean, inverse, weight):
    from mmseg_tome.ops import normalization_triton

    return normalization_triton.layer_norm_backward(grad, grad_total, x, mean, inverse, weight)


def _save_layer_norm(ctx, inputs, output):
    x, weight, bias, ctx.eps, ctx.dtype, _ = inputs
    ctx.save_for_backward(x, weight, bias, *output[1:])


def _layer_norm_gradient(ctx, grad, *_):
    x, weight, bias, mean, inverse = ctx.saved_tensors
    if by_torch(grad):
        grads = _layer_norm_gradient_by_torch(ctx, grad, None, x, weight, bias)
    else:
        grads = layer_norm_backward(grad, None, x, mean, inverse, weight)
    return *grads, None, None, None


def _layer_norm_gradient_by_torch(ctx, grad, grad_total, x, weight, bias):
    """Gradients of `x`, of the weight and of the bias, with a graph."""

    def both(x, weight, bias):
        wide = _wide(x, weight)
        settings = (weight.to(wide), bias.to(wide), ctx.eps, ctx.dtype)
        return x, normalization.layer_norm(x.to(wide), *settings)

    return differentiable_gradient(both, (x, weight, bias), (grad_total, grad))


def _wide(*tensors):
    """What a kernel computes in: it takes tensors of different data types, torch does not."""
    dtypes = [t.dtype for t in tensors]
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


def _save_add_layer_norm(ctx, inputs, output):
    residual, y, slot, tokens, offsets, ctx.largest, weight, bias, ctx.eps, ctx.dtype = inputs
    total, _, mean, inverse = output
    ctx.dtypes, ctx.num_slots = (residual.dtype, y.dtype), y.shape[1]
    ctx.save_for_backward(total, weight, bias, mean, inverse, slot, tokens, offsets)


def _add_layer_norm_gradient(ctx, grad_total, grad, *_):
    total, weight, bias, mean, inverse, slot, tokens, offsets = ctx.saved_tensors
    grad_weight = grad_bias = None
    if grad is not None and by_torch(grad, grad_total):
        grad_total, grad_weight, grad_bias = _layer_norm_gradient_by_torch(
            ctx, grad, grad_total, total, weight, bias
        )
    elif grad is not None:
        grad_total, grad_weight, grad_bias = layer_norm_backward(
            grad, grad_total, total, mean, inverse, weight
        )
    grad_y = grad_total
    if slot is not None and ctx.needs_input_grad[1]:
        order = tokens, offsets, ctx.largest
        grad_y = reduce_by(grad_total, slot, *order, ctx.num_slots, False)
    grads = (g.to(dtype) for g, dtype in zip((grad_total, grad_y), ctx.dtypes, strict=True))
    return *grads, None, None, None, None, grad_weight, grad_bias, None, None


layer_norm.set_gradient(_layer_norm_gradient, _save_layer_norm)
add_layer_norm.set_gradient(_add_layer_norm_gradient, _save_add_layer_norm)


@operator(
    "depthwise_gelu(Tensor x, Tensor weight, Tensor bias, SymInt height, SymInt width) -> Tensor",
    lambda x, *_: torch.empty_like(x, memory_format=torch.contiguous_format),
)
def depthwise_gelu(x, weight, bias, height, width):
    from mmseg_tome.ops import depthwise_triton

    return depthwise_triton.depthwise_gelu(x, weight, bias, (height, width))


@operator(
    "depthwise_gelu_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, SymInt height,"
    " SymInt width) -> (Tensor, Tensor, Tensor)",
    lambda grad, x, weight, bias, *_: tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, weight, bias)
    ),
)
def depthwise_gelu_backward(grad, x, weight, bias, height, width):
    from mmseg_tome.ops import depthwise_triton

    return depthwise_triton.depthwise_gelu_backward(grad, x, weight, bias, (height, width))


def _save_depthwise(ctx, inputs, output):
    *tensors, height, width = inputs
    ctx.hw = height, width
    ctx.save_for_backward(*tensors)


def _depthwise_gradient(ctx, grad):
    if by_torch(grad):
        grads = _depthwise_gradient_by_torch(ctx, grad, *ctx.saved_tensors)
    else:
        grads = depthwise_gelu_backward(grad, *ctx.saved_tensors, *ctx.hw)
    return *grads, None, None


def _depthwise_gradient_by_torch(ctx, grad, *tensors):
    def twin(x, weight, bias):
        wide = _wide(x, weight, bias)
        out = depthwise.depthwise_gelu(x.to(wide), weight.to(wide), bias.to(wide), ctx.hw)
        return out.to(x.dtype)

    return differentiable_gradient(twin, tensors, (grad,))


depthwise_gelu.set_gradient(_depthwise_gradient, _save_depthwise)


@operator(
    "add_resized(Tensor x, Tensor[] maps, bool relu) -> Tensor",
    lambda x, maps, relu: torch.empty_like(x, memory_format=torch.channels_last),
)
def add_resized(x, maps, relu):
    from mmseg_tome.ops import resizing_triton

    return resizing_triton.add_resized(x, maps, relu)


def _label_map_shape(logits, hw, crop, stride, padding, size):
    rows, cols = Windows(hw, crop, stride).grid
    return logits.new_empty((logits.shape[0] // (rows * cols), *size), dtype=torch.int64)


@operator(
    "label_map(Tensor logits, int[] hw, int[] crop, int[] stride, int[] padding, int[] size)"
    " -> Tensor",
    _label_map_shape,
)
def label_map(logits, hw, crop, stride, padding, size):
    from mmseg_tome.ops import labelling_triton

    return labelling_triton.label_map(logits, Windows(hw, crop, stride), padding, tuple(size))
