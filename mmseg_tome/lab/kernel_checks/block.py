"""The other operations of a block and of the head, for the same tokens."""

from __future__ import annotations

import torch

from mmseg_tome import ops

from .problem import Case, Problem, floor_us

EXPANSION = 4
"""Channels of MixFFN's hidden layer over those of a token."""


class Block(Problem):
    """Everything that norms, MixFFN's middle and the head's sum take."""

    def __init__(self, case: Case, dtype: torch.dtype, device: str):
        self.dtype = dtype
        self.hw = (case.side, case.side)
        tokens, hidden = case.side**2, EXPANSION * case.channels

        def random(*shape):
            return torch.randn(shape, device=device).to(dtype)

        self.x, self.update, self.grad = (
            random(case.batch, tokens, case.channels) for _ in range(3)
        )
        self.weight, self.bias = random(case.channels), random(case.channels)
        self.hidden, self.hidden_grad = (random(case.batch, tokens, hidden) for _ in range(2))
        self.kernel, self.hidden_bias = random(hidden, 1, 3, 3), random(hidden)
        # The head's maps: the finest as large as the grid, the others half of it and so on.
        self.map, self.half, self.quarter = (
            random(case.batch, case.channels, size, size)
            for size in (case.side, -(-case.side // 2), -(-case.side // 4))
        )

    def layer_norm(self):
        return ops.layer_norm(self.x, self.weight, self.bias, 1e-6)

    def layer_norm_and_grad(self):
        leaves = [t.detach().requires_grad_() for t in (self.x, self.weight, self.bias)]
        out = ops.layer_norm(*leaves, 1e-6)
        return out, *torch.autograd.grad(out, leaves, self.grad)

    def add_layer_norm(self):
        return ops.add_layer_norm(self.x, self.update, None, self.weight, self.bias, 1e-6)

    def add_layer_norm_and_grad(self):
        tensors = (self.x, self.update, self.weight, self.bias)
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = ops.add_layer_norm(*leaves[:2], None, *leaves[2:], 1e-6)
        # Not the update's own values as the norm's gradient: their sum over many rows, the
        # gradient of the weight, would overflow float16.
        return *out, *torch.autograd.grad(out, leaves, (self.update, self.grad))

    def depthwise_gelu(self):
        return ops.depthwise_gelu(self.hidden, self.kernel, self.hidden_bias, self.hw)

    def depthwise_gelu_and_grad(self):
        tensors = (self.hidden, self.kernel, self.hidden_bias)
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = ops.depthwise_gelu(*leaves, self.hw)
        return out, *torch.autograd.grad(out, leaves, self.hidden_grad)

    def add_resized(self):
        with torch.no_grad():
            return ops.add_resized(self.map, [self.half, self.quarter], relu=True)

    def _floors(self) -> dict[str, float]:
        full, hidden = self.x.nbytes, self.hidden.nbytes
        return {
            "layer_norm": floor_us(2 * full),
            "layer_norm_and_grad": floor_us(5 * full),
            "add_layer_norm": floor_us(4 * full),
            "add_layer_norm_and_grad": floor_us(8 * full),
            "depthwise_gelu": floor_us(2 * hidden),
            "depthwise_gelu_and_grad": floor_us(7 * hidden),
            "add_resized": floor_us(2 * full + self.half.nbytes + self.quarter.nbytes),
        }
