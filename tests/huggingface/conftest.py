"""Tiny SegFormers of `transformers`, as it is installed and as earlier versions built them."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES = dict(hidden_sizes=[8, 16, 40, 64], depths=[2, 2, 3, 2], num_attention_heads=[1, 2, 5, 8])
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")


@pytest.fixture
def tiny():
    """Build a tiny model of a class of `transformers`: random weights, no dropout, float64.

    Where tokens are equally similar to the last bit, two implementations may match differently;
    in float64 they do not meet that.
    """

    transformers = pytest.importorskip("transformers")

    def build(name: str = "SegformerModel", dtype: torch.dtype = torch.float64, **config):
        settings = dict.fromkeys([*DROPOUTS, "drop_path_rate"], 0.0)
        settings |= dict(decoder_hidden_size=16, num_labels=5) | SIZES | config
        model = getattr(transformers, name)(transformers.SegformerConfig(**settings))
        for parameter in model.parameters():  # large enough for attention to matter
            nn.init.normal_(parameter, std=0.3)
        return model.to(dtype).eval()

    return build


NAMES = [
    (r"^(encoder\.block|stages)\.(\d)\.(blocks\.)?(\d)\.", r"layers.\2.1.\4."),
    (r"^stages\.(\d)\.patch_embeddings\.", r"layers.\1.0."),
    (r"^encoder\.patch_embeddings\.(\d)\.", r"layers.\1.0."),
    (r"^stages\.(\d)\.layer_norm\.", r"layers.\1.2."),
    (r"^encoder\.layer_norm\.(\d)\.", r"layers.\1.2."),
    (r"\.0\.proj\.", ".0.projection."),
    (r"\.0\.layer_norm\.", ".0.norm."),
    (r"layer_norm_1|layernorm_before", "norm1"),
    (r"layer_norm_2|layernorm_after", "norm2"),
    (r"attention\.(self\.)?(q|k|v)(_proj|uery|ey|alue)\.", r"attn.attn.\2."),
    (r"attention\.(output\.dense|o_proj)\.", "attn.attn.out_proj."),
    (r"attention\.(self\.sr|sequence_reduction\.sequence_reduction)\.", "attn.sr."),
    (r"attention\.(self|sequence_reduction)\.layer_norm\.", "attn.norm."),
    (r"mlp\.(dense1|fc1)\.", "ffn.layers.0."),
    (r"mlp\.dwconv\.dwconv\.", "ffn.layers.1."),
    (r"mlp\.(dense2|fc2)\.", "ffn.layers.4."),
]


@pytest.fixture
def as_ours() -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Values by the parameters' names in `SegformerModel`, by those in our backbone."""

    def convert(values: dict[str, Tensor]) -> dict[str, Tensor]:
        ours = {}
        for name, value in values.items():
            for pattern, replacement in NAMES:
                name = re.sub(pattern, replacement, name)
            pointwise = re.search(r"ffn\.layers\.[04]\.weight", name)
            ours[name] = value[..., None, None] if pointwise else value
        for q in [name for name in ours if ".attn.q." in name]:
            names = [q.replace(".q.", f".{which}.") for which in "qkv"]
            joined = torch.cat([ours.pop(name) for name in names])
            ours[q.replace(".q.", ".in_proj_")] = joined
        return ours

    return convert


class SegformerEfficientSelfAttention(nn.Module):
    def __init__(self, flat: nn.Module):
        super().__init__()
        self.query, self.key, self.value = flat.q_proj, flat.k_proj, flat.v_proj
        self.num_attention_heads = flat.num_attention_heads
        self.dropout = nn.Dropout(flat.attention_dropout)
        self.sr_ratio = flat.sequence_reduction_ratio
        if self.sr_ratio > 1:
            self.sr = flat.sequence_reduction.sequence_reduction
            self.layer_norm = flat.sequence_reduction.layer_norm


class SegformerSelfOutput(nn.Module):
    def __init__(self, dense: nn.Module, drop: float):
        super().__init__()
        self.dense, self.dropout = dense, nn.Dropout(drop)


class SegformerAttention(nn.Module):
    def __init__(self, flat: nn.Module, drop: float):
        super().__init__()
        self.self = SegformerEfficientSelfAttention(flat)
        self.output = SegformerSelfOutput(flat.o_proj, drop)

    def forward(self, x, height, width, output_attentions=False):
        inner, y = self.self, x
        if inner.sr_ratio > 1:
            y = inner.sr(x.transpose(1, 2).unflatten(2, (height, width)))
            y = inner.layer_norm(y.flatten(2).transpose(1, 2))
        q, k, v = (
            f(z).unflatten(2, (inner.num_attention_heads, -1)).transpose(1, 2)
            for f, z in ((inner.query, x), (inner.key, y), (inner.value, y))
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (self.output.dropout(self.output.dense(out)),)


class SegformerLayer(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        self.layer_norm_1, self.layer_norm_2 = block.layernorm_before, block.layernorm_after
        self.attention = SegformerAttention(block.attention, block.hidden_dropout.p)
        self.mlp = block.mlp

    def forward(self, x, height, width, output_attentions=False):
        update, *weights = self.attention(
            self.layer_norm_1(x), height, width, output_attentions=output_attentions
        )
        x = x + update
        return (x + self.mlp(self.layer_norm_2(x), height, width), *weights)


class SegformerEncoder(nn.Module):
    def __init__(self, stages: nn.ModuleList):
        super().__init__()
        self.patch_embeddings = nn.ModuleList(stage.patch_embeddings for stage in stages)
        self.block = nn.ModuleList(
            nn.ModuleList(SegformerLayer(block) for block in stage.blocks) for stage in stages
        )
        self.layer_norm = nn.ModuleList(stage.layer_norm for stage in stages)

    def forward(self, x, output_attentions=False):
        maps, weights = (), ()
        for embed, blocks, norm in zip(
            self.patch_embeddings, self.block, self.layer_norm, strict=True
        ):
            x, height, width = embed(x)
            for block in blocks:
                x, *more = block(x, height, width, output_attentions)
                weights += (more[0],) if output_attentions else ()
            x = norm(x).transpose(1, 2).unflatten(2, (height, width))
            maps += (x,)
        return maps, weights


class SegformerModel(nn.Module):
    """A `SegformerModel` with the modules, names and calls of version 5.8 and before."""

    def __init__(self, stages: nn.ModuleList):
        super().__init__()
        self.encoder = SegformerEncoder(stages)

    def forward(self, x, output_attentions=False):
        return self.encoder(x, output_attentions=output_attentions)


@pytest.fixture
def earlier():
    """The same model, with the same parameters, as an earlier version would have built it."""

    def rebuild(model: nn.Module) -> SegformerModel:
        if not hasattr(model, "stages"):
            pytest.skip("the installed transformers is itself an earlier version")
        return SegformerModel(model.stages).train(model.training)

    return rebuild
