"""FLOPs of a pass, counted by operator and by Triton kernel, and the attention that they show."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import (
    FlopCounterMode,
    conv_flop_count,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from mmseg_tome.ops.backend import HAVE_TRITON


def _sdpa(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _sdpa_backward(gradient, query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


def _convolution_backward(
    gradient, x, weight, _bias, _stride, _padding, _dilation, transposed, _out, _groups, wanted, **_
) -> int:
    forward = conv_flop_count(x, weight, gradient, transposed=transposed)
    return forward * sum(wanted[:2])  # of the input, of the weight: as much as forward each


# torch counts the fused attention of GPUs, but not the one of CPUs, and takes the gradient of a
# depthwise weight for that of a dense one.
OF_OPERATORS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_backward,
    torch.ops.aten.convolution_backward: _convolution_backward,
}
"""FLOPs of operators that torch does not count; an operator of ours that hides matrix products or
convolutions from torch's dispatcher needs its formula here."""


def _match(metric, num_src: int, num_dst: int, **_) -> int:
    batch, _, channels = metric.shape
    return 2 * batch * num_src * num_dst * channels


def _depthwise(x, **_) -> int:
    return 2 * 9 * x.numel()


def _gradient(x, **_) -> int:
    return 2 * _depthwise(x)  # the convolution once more, and the gradient of its weight


OF_KERNELS: dict[str, Callable[..., int]] = {
    "_match_kernel": _match,
    "_depthwise_kernel": _depthwise,
    "_gradient_kernel": _gradient,
}
"""FLOPs of one launch of a Triton kernel that multiplies matrices or convolves, by the kernel's
name, given its arguments by name."""


def flop_counter() -> FlopCounterMode:
    """torch's counter of FLOPs with `OF_OPERATORS`."""
    return FlopCounterMode(display=False, custom_mapping=OF_OPERATORS)


@contextmanager
def watch_launches(on_launch: Callable[[str, dict, int], None]) -> Iterator[None]:
    """Report the Triton kernels launched inside the context: name, arguments by name, FLOPs."""
    if not HAVE_TRITON or not (torch.cuda.is_available() or "triton" in sys.modules):
        yield
        return
    from mmseg_tome.ops import launching  # only now: it imports Triton

    def watcher(name: str, arguments: dict) -> None:
        on_launch(name, arguments, OF_KERNELS[name](**arguments) if name in OF_KERNELS else 0)

    with launching.watch_launches(watcher):
        yield


def count_flops(forward: Callable[[], Tensor]) -> tuple[Tensor, dict[str, int]]:
    """Run ``forward`` once and count its FLOPs by operator, 2 per multiply-add.

    Counted are matrix products (attention and the similarities of matching among them) and
    convolutions; not counted are elementwise operations, norms, softmax, sorting and resizing.
    """
    counter, launched = flop_counter(), Counter()
    with counter, watch_launches(lambda name, _, flops: launched.update({name: flops})):
        output = forward()
    counts = counter.get_flop_counts().get("Global", {})
    flops = {str(op).removeprefix("aten."): int(n) for op, n in counts.items()}
    return output, flops | {name: n for name, n in launched.items() if n}


def attention_backend(flops: dict[str, int]) -> str:
    """Which attention ran, read off the operators that `count_flops` saw."""
    fused = [op for op in flops if "scaled_dot_product" in op or "_attention_forward" in op]
    return f"fused ({', '.join(fused)})" if fused else "materialised (bmm, softmax, bmm)"
