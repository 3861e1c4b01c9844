"""Problems for the kernels: inputs on one device, and operations on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tome import ops
from mmseg_tome.merging import BipartiteMatching
from mmseg_tome.merging.strategies.bipartite import split_cells
from mmseg_tome.ops.labelling import add_windows, average_windows
from mmseg_tome.ops.segment import segment_order_torch

BYTES_PER_S, FLOP_PER_S = 3.0e12, {torch.float32: 400e12}
"""Copy rate of an H100, and its matmul rate: 800 TFLOP/s, in float32 400, which is tf32."""
STRATEGY = BipartiteMatching(0.8, (4, 4))
"""Of stage 3 of MiT-B5 under the preset hq."""
EXPANSION = 4
"""Channels of MixFFN's hidden layer over those of a token."""
CLASSES = 19
SCALE = 4
"""Pixels of an image over those of a head's logits, along each side."""


class Case(NamedTuple):
    """One stage's tokens."""

    batch: int
    side: int
    channels: int = 320

    def __str__(self):
        return f"{self.batch} x {self.side}x{self.side} x {self.channels}"


class Problem:
    """Methods without a leading underscore are operations, in the order of the report."""

    dtype: torch.dtype

    def _floors(self) -> dict[str, float]:
        """Microseconds that memory and arithmetic allow each operation."""
        raise NotImplementedError

    def _widen(self) -> None:
        """Turn floating-point inputs into float64, which the twins take."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(self, name, value.double())

    def _judge(self, results: dict[str, tuple]) -> list[str]:
        """What is wrong with the results of operations that have no unique result."""
        return []

    _not_unique: tuple[str, ...] = ()
    """Operations that only `_judge` looks at, as rounding decides near-ties."""

    def _operations(self) -> tuple[str, ...]:
        return tuple(name for name in vars(type(self)) if not name.startswith("_"))


def floor_us(nbytes: float, flop: float = 0, dtype: torch.dtype = torch.bfloat16) -> float:
    """The larger of the time of the bytes and that of the FLOP, in microseconds."""
    return 1e6 * max(nbytes / BYTES_PER_S, flop / FLOP_PER_S.get(dtype, 800e12))


class Merger(Problem):
    """The operations on slot maps."""

    _not_unique = ("match", "whole_merge")

    def __init__(self, case: Case, dtype: torch.dtype, device: str):
        self.dtype = dtype
        hw = (case.side, case.side)
        self.tokens = case.side**2
        self.num_slots = STRATEGY.num_slots(hw)
        self.r = self.tokens - self.num_slots
        split = split_cells(hw, STRATEGY.stride, torch.device(device))
        self.src, self.dst = split.src, split.dst

        def random(rows):
            return torch.randn(case.batch, rows, case.channels, device=device).to(dtype)

        self.x, self.residual = random(self.tokens), random(self.tokens)
        self.y = random(self.num_slots)
        self.similarity, self.nearest = ops.match(self.x, self.src, self.dst)
        self.slot, *_ = self.assign_ordered()
        self.order = ops.segment_order(self.slot, self.num_slots)

    def match(self):
        return ops.match(self.x, self.src, self.dst)

    def assign_ordered(self):
        matched = self.similarity, self.nearest, self.r, self.src, self.dst, self.tokens
        slot, order = ops.assign_ordered(*matched)
        return slot, *(order or segment_order_torch(slot, self.num_slots))

    def segment_order(self):
        args = self.slot, self.num_slots
        return ops.segment_order(*args) or segment_order_torch(*args)

    def segment_mean(self):
        return ops.segment_mean(self.x, self.slot, self.num_slots, self.order)

    def gather_segments(self):
        return ops.gather_segments(self.y, self.slot, self.order)

    def gather_segments_add(self):
        return ops.gather_segments_add(self.y, self.slot, self.residual, self.order)

    def segment_mean_and_grad(self):
        x = self.x.detach().requires_grad_()
        mean = ops.segment_mean(x, self.slot, self.num_slots, self.order)
        return mean, torch.autograd.grad(mean, x, self.y)[0]

    def gather_segments_add_and_grad(self):
        y, residual = self.y.detach().requires_grad_(), self.residual.detach().requires_grad_()
        out = ops.gather_segments_add(y, self.slot, residual, self.order)
        return out, *torch.autograd.grad(out, (y, residual), self.x)

    def whole_merge(self):
        """From tokens to their update: what a block does around its attention."""
        pairs = ops.match(self.x, self.src, self.dst)
        slot, order = ops.assign_ordered(*pairs, self.r, self.src, self.dst, self.tokens)
        mean = ops.segment_mean(self.x, slot, self.num_slots, order)
        return ops.gather_segments_add(mean, slot, self.residual, order)

    def _floors(self) -> dict[str, float]:
        batch, tokens, channels = self.x.shape
        row, pairs = channels * self.x.element_size(), len(self.src) * len(self.dst)
        full, merged = batch * tokens * row, batch * self.num_slots * row
        index = 8 * batch * tokens
        flop = 2 * batch * pairs * channels
        return {
            "match": floor_us(full + 12 * batch * len(self.src), flop, self.dtype),
            "assign_ordered": floor_us(4 * index),
            "segment_order": floor_us(2 * index),
            "segment_mean": floor_us(full + merged),
            "gather_segments": floor_us(merged + full + index),
            "gather_segments_add": floor_us(merged + 2 * full + index),
            "segment_mean_and_grad": floor_us(2 * (full + merged)),
            "gather_segments_add_and_grad": floor_us(2 * merged + 3 * full + index),
            "whole_merge": floor_us(4 * full, flop, self.dtype),
        }

    def _judge(self, results: dict[str, tuple]) -> list[str]:
        """The similarities of `match`, and the score of the destination that it chose."""
        wrong = []
        for b, x in enumerate(F.normalize(self.x, dim=-1)):
            scores = x[self.src] @ x[self.dst].T  # [S, D]
            similarity, nearest = (t[b] for t in results["match"])
            best = scores.amax(1)
            chosen = scores.gather(1, nearest[:, None])[:, 0]
            error = max((similarity - best).abs().max().item(), (best - chosen).max().item())
            if not error <= 1e-5:
                wrong.append(f"match: similarity off by {error:.1e} in sample {b}")
        return wrong


class Block(Problem):
    """The other operations of a block and of the head, for the same tokens."""

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


class Labels(Problem):
    """The labels of an image twice as wide as high from three windows, as Cityscapes is tested."""

    _not_unique = ("label_map", "label_map_resized")

    def __init__(self, case: Case, dtype: torch.dtype, device: str):
        self.dtype = dtype
        full = SCALE * case.side
        self.windows = ops.Windows((full, 2 * full), (full, full), (full, -(-full * 3 // 4)))
        self.size = (full * 3 // 2, full * 3)
        number = len(self.windows.boxes()) * case.batch
        logits = torch.randn(number, case.side, case.side, CLASSES, device=device).to(dtype)
        self.logits = logits.permute(0, 3, 1, 2)  # channels-last, as heads make it

    def label_map(self):
        return ops.label_map(self.logits, self.windows)

    def label_map_resized(self):
        return ops.label_map(self.logits, self.windows, size=self.size)

    def _floors(self) -> dict[str, float]:
        images = self.logits.shape[0] // len(self.windows.boxes())
        pixels, resized = (h * w for h, w in (self.windows.hw, self.size))
        return {
            "label_map": floor_us(self.logits.nbytes + 8 * images * pixels),
            "label_map_resized": floor_us(self.logits.nbytes + 8 * images * resized),
        }

    def _judge(self, results: dict[str, tuple]) -> list[str]:
        """The interpolated logit of the class that was chosen, against the largest one."""
        wrong = []
        for name, (labels,) in results.items():
            for image, label in enumerate(labels):
                logits = self.logits[image :: len(labels)].double()
                total = logits.new_zeros(1, CLASSES, *self.windows.hw)
                add_windows(total, logits, self.windows)
                average_windows(total, self.windows)
                full = F.interpolate(total, label.shape, mode="bilinear")[0]
                loss = full.amax(0) - full.gather(0, label[None])[0]
                error = (loss / full.abs().amax(0)).max().item()
                if not error <= 1e-5:
                    wrong.append(f"{name}: a logit off by {error:.1e} in image {image}")
        return wrong
