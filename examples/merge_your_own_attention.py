"""Token merging in an attention block of your own: only torch and `mmseg_tome.merging`.

    python examples/merge_your_own_attention.py

The block is a plain one: norm, multi-head self-attention, residual sum. Merging is the three lines
that are numbered, and it adds no parameters; docs/merging.md explains them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tome.merging import BipartiteMatching, MergingStrategy, NeighbourMerging2D


class MergedAttentionBlock(nn.Module):
    """Self-attention over merged queries and merged keys and values, with a residual.

    Args:
        channels: Channels of a token.
        heads: Number of attention heads.
        q_strategy: How queries merge.
        kv_strategy: How keys and values merge.
    """

    def __init__(
        self, channels: int, heads: int, q_strategy: MergingStrategy, kv_strategy: MergingStrategy
    ):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.q_strategy, self.kv_strategy = q_strategy, kv_strategy

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Tokens `[B, H * W, C]` of the grid `hw`, in and out."""
        y = self.norm(x)
        q_slots, kv_slots = self.q_strategy(y, hw), self.kv_strategy(y, hw)  # 1. who merges
        q, kv = q_slots.merge(y), kv_slots.merge(y)  # 2. [B, M, C], [B, K, C]
        q = self.to_q(q).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, M, C / heads]
        kv = self.to_kv(kv).unflatten(2, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)  # [B, heads, K, C / heads] each
        update = F.scaled_dot_product_attention(q, k, v)
        update = self.out(update.transpose(1, 2).flatten(2))  # [B, M, C]
        return q_slots.unmerge_add(update, x)  # 3. back to every token, and x + update


def main() -> None:
    torch.manual_seed(0)
    batch, channels, hw = 2, 64, (32, 48)
    tokens = hw[0] * hw[1]
    x = torch.randn(batch, tokens, channels, requires_grad=True)

    q_strategy = BipartiteMatching(ratio=0.8, stride=(4, 4))
    kv_strategy = NeighbourMerging2D(stride=(2, 2))
    block = MergedAttentionBlock(channels, 4, q_strategy, kv_strategy)
    for name, strategy in (("queries", q_strategy), ("keys/values", kv_strategy)):
        kept = strategy.num_slots(hw)  # known without a run
        print(f"{name}: {kept} of {tokens} tokens kept ({kept / tokens:.0%}) by {strategy}")

    merged = block(x, hw)
    assert merged.shape == x.shape, merged.shape
    merged.square().mean().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    print(f"output: {tuple(merged.shape)}, as the input; gradients reach every token")


if __name__ == "__main__":
    main()
