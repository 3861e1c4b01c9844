"""The operations on slot maps, for stage 3 of MiT-B5 under the preset hq."""

from __future__ import annotations

import torch

from mmseg_tome import ops
from mmseg_tome.merging import BipartiteMatching
from mmseg_tome.merging.strategies.bipartite import split_cells
from mmseg_tome.ops.segment import segment_order_torch

from .problem import Case, Problem, floor_us

STRATEGY = BipartiteMatching(0.8, (4, 4))


class Merger(Problem):
    """Everything that the operations of one merger take."""

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
        for b, x in enumerate(torch.nn.functional.normalize(self.x, dim=-1)):
            scores = x[self.src] @ x[self.dst].T  # [S, D]
            similarity, nearest = (t[b] for t in results["match"])
            best = scores.amax(1)
            chosen = scores.gather(1, nearest[:, None])[:, 0]
            error = max((similarity - best).abs().max().item(), (best - chosen).max().item())
            if not error <= 1e-5:
                wrong.append(f"match: similarity off by {error:.1e} in sample {b}")
        return wrong
