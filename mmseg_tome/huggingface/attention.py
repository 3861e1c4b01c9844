"""SegFormer's efficient self-attention with merging, on the layers of a `transformers` module.

Versions differ in what the layers are called: one mixin each. The layers are called as modules, so
that adapters, quantised layers and hooks in their place work.
"""

from collections.abc import Hashable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tome import ops
from mmseg_tome.huggingface.mixing import Mixin
from mmseg_tome.merging import SlotMap
from mmseg_tome.merging.attention import MergedAttention, PassGrid


class Pass:
    """What the blocks share in one forward pass: the slot maps of each group.

    It goes in the place of `output_attentions`, the one argument that every version hands down to
    each attention, and is true or false as that was. Each attention makes its `PassGrid` of it.

    Args:
        output_attentions: Whether attention weights are wanted; None leaves it to the config.
    """

    def __init__(self, output_attentions: bool | None):
        self.output_attentions = output_attentions
        self.slots: dict[Hashable, SlotMap] = {}

    def __bool__(self) -> bool:
        return bool(self.output_attentions)


class OpensPass(Mixin):
    """Begins a `Pass`: for a module that runs all blocks which share slot maps."""

    def forward(self, inputs: Tensor, output_attentions: bool | None = None, **kwargs):
        return super().forward(inputs, output_attentions=Pass(output_attentions), **kwargs)


class Layers(NamedTuple):
    """What an attention is made of.

    Attributes:
        query: `[B, N, C] -> [B, N, C]`, as are the next three.
        key:
        value:
        out:
        reduction: The convolution that spatially reduces keys and values, None without.
        norm: The norm behind it.
        heads: Number of attention heads.
        drop: Dropout of attention weights.
        out_drop: Dropout of the output.
    """

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    reduction: nn.Module | None
    norm: nn.Module | None
    heads: int
    drop: float
    out_drop: nn.Module | None


class SegformerAttention(MergedAttention, Mixin):
    """`MergedAttention` mixed into the class of this name in `transformers`.

    The same function as `mmseg_tome.MixVisionTransformer`'s attention.
    """

    NEEDS: tuple[str, ...]
    """Attributes by which a module is known to be of this layout."""

    def layers(self) -> Layers:
        """The module's layers."""
        raise NotImplementedError

    def forward(
        self,
        hidden_states: Tensor,
        height: int,
        width: int,
        *,
        output_attentions: bool | Pass | None = None,
        attention_mask: Tensor | None = None,
        **_,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within each sample.

        Args:
            hidden_states: Tokens, `[B, height * width, C]`.
            height: Rows of their grid.
            width: Its columns.
            output_attentions: Whether to return attention weights, which then cannot be fused.
            attention_mask: Not supported.

        Returns:
            The update of the tokens, `[B, height * width, C]`; and None, or what attention weights
            between all tokens the merged ones amount to, `[B, heads, height * width, L]`.

        Raises:
            ValueError: A mask was given.
        """
        if attention_mask is not None:
            raise ValueError("merged attention takes no attention_mask; see remove_merging")
        shared = output_attentions.slots if isinstance(output_attentions, Pass) else None
        weights = None

        def attend_and_keep(*args) -> Tensor:
            nonlocal weights
            out, weights = attend_unfused(*args)
            return out

        wanted = self._wants_weights(output_attentions)
        out, slots = self.merge_and_attend(
            hidden_states,
            PassGrid((height, width), shared),
            attend_and_keep if wanted else ops.attend,
        )
        if wanted:
            weights = unmerge_weights(weights, slots.q, slots.kv)
        out, out_drop = slots.q.unmerge(out), self.layers().out_drop
        return out if out_drop is None else out_drop(out), weights

    def reduce(self, x: Tensor, hw: PassGrid) -> tuple[Tensor, PassGrid]:
        layers = self.layers()
        if layers.reduction is None:
            return x, hw
        # [B, C, H, W], channels-last: no copy
        feature_map = layers.reduction(x.unflatten(1, tuple(hw)).permute(0, 3, 1, 2))
        tokens = feature_map.flatten(2).transpose(1, 2)  # [B, L, C]
        return layers.norm(tokens), hw.resized(feature_map.shape[2:])

    def project_queries(self, x: Tensor) -> Tensor:
        layers = self.layers()
        return _split_heads(layers.query(x), layers.heads)

    def project_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.layers()
        return tuple(
            _split_heads(project(x), layers.heads) for project in (layers.key, layers.value)
        )

    def project_out(self, x: Tensor) -> Tensor:
        return self.layers().out(x)

    def weights_dropout(self) -> float:
        return self.layers().drop

    def _wants_weights(self, output_attentions: bool | Pass | None) -> bool:
        if isinstance(output_attentions, Pass):
            output_attentions = output_attentions.output_attentions
        if output_attentions is None:
            output_attentions = getattr(getattr(self, "config", None), "output_attentions", False)
        return bool(output_attentions)


class FlatAttention(SegformerAttention):
    """For `SegformerAttention` of current versions, which holds all layers itself."""

    NEEDS = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "num_attention_heads",
        "attention_dropout",
        "sequence_reduction_ratio",
    )

    def layers(self) -> Layers:
        sr = self.sequence_reduction if self.sequence_reduction_ratio > 1 else None
        return Layers(
            self.q_proj,
            self.k_proj,
            self.v_proj,
            self.o_proj,
            sr and sr.sequence_reduction,
            sr and sr.layer_norm,
            self.num_attention_heads,
            self.attention_dropout if self.training else 0.0,
            None,  # left to the block
        )


class NestedAttention(SegformerAttention):
    """For `SegformerAttention` of earlier versions, up to 5.8 at least, which holds two modules."""

    NEEDS = (
        "self.query",
        "self.key",
        "self.value",
        "self.num_attention_heads",
        "self.dropout.p",
        "self.sr_ratio",
        "output.dense",
        "output.dropout",
    )

    def layers(self) -> Layers:
        inner = self.self
        reduces = inner.sr_ratio > 1
        return Layers(
            inner.query,
            inner.key,
            inner.value,
            self.output.dense,
            inner.sr if reduces else None,
            inner.layer_norm if reduces else None,
            inner.num_attention_heads,
            inner.dropout.p if inner.dropout.training else 0.0,
            self.output.dropout,
        )


def attend_unfused(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, drop: float
) -> tuple[Tensor, Tensor]:
    """`scaled_dot_product_attention` that gives its weights, too.

    Args:
        q: `[B, heads, M, D]`.
        k: `[B, heads, K, D]`.
        v: `[B, heads, K, D]`.
        bias: Added to logits, or None.
        drop: Dropout of the weights.

    Returns:
        `[B, heads, M, D]`, and the weights `[B, heads, M, K]`.
    """
    logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    weights = F.dropout((logits if bias is None else logits + bias).softmax(-1), drop)
    return weights @ v, weights


def unmerge_weights(weights: Tensor, q_slots: SlotMap, kv_slots: SlotMap) -> Tensor:
    """Attention weights between all tokens that give the same output as those between merged ones.

    A token attends as its merged query does, and each of the keys that were merged gets an equal
    share of their weight.

    Args:
        weights: `[B, heads, M, K]`.
        q_slots: Slot map of the queries, N tokens to M.
        kv_slots: Slot map of the keys and values, L tokens to K.

    Returns:
        `[B, heads, N, L]`.
    """
    batch, heads = weights.shape[:2]
    tokens = kv_slots.slot.shape[1]
    if not kv_slots.is_identity():
        each = torch.eye(tokens, dtype=weights.dtype, device=weights.device)
        means = kv_slots.merge(each.expand(batch, -1, -1))  # [B, K, L]: the merging as a matrix
        weights = weights @ means[:, None]
    rows = q_slots.unmerge(weights.permute(0, 2, 1, 3).flatten(2))  # [B, N, heads * L]
    return rows.unflatten(2, (heads, tokens)).permute(0, 2, 1, 3)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, N, C] -> [B, heads, N, C / heads]`."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
