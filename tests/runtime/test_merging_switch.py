from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmseg_tome import compat, create_model  # isort: skip
from mmseg_tome.merging import Identity, TomeConfigError, parse_tome_cfg  # isort: skip
from mmseg_tome.models.mix_transformer import MixVisionTransformer  # isort: skip
from mmseg_tome.runtime.graphs import install  # isort: skip
from mmseg_tome.runtime.merging_switch import (  # isort: skip
    merging_backbone,
    merging_of,
    set_merging,
    without_merging,
)

IMAGE = (2, 3, 64, 96)


@pytest.fixture
def backbone():
    """Backbones of the same weights, whatever they merge."""

    def build(**kwargs) -> MixVisionTransformer:
        torch.manual_seed(0)
        sizes = dict(embed_dims=8, num_layers=(2, 2, 2, 2), num_heads=(1, 2, 4, 4))
        model = MixVisionTransformer(**sizes, **kwargs)
        model.init_weights()
        return model.eval()

    return build


class Around(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


CUSTOM = [dict(reuse=2)] * 3 + [dict(q=dict(mode="n1d", stride=2))]


def of_torch_alone() -> nn.Module:
    return create_model("b0", 3, channels=16)


def of_mm(name: str, **sizes) -> nn.Module:
    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    from mmseg_tome import models

    return getattr(models, name)(**sizes)


def of_transformers() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = dict(depths=[1, 1, 2, 1], num_attention_heads=[1, 2, 5, 8], decoder_hidden_size=16)
    config = transformers.SegformerConfig(hidden_sizes=[8, 16, 40, 64], **sizes)
    return transformers.SegformerForSemanticSegmentation(config)


MODELS = {
    "torch alone": of_torch_alone,
    "mm": lambda: of_mm("MixVisionTransformer", embed_dims=8, num_heads=(1, 2, 4, 4)),
    "ViT": lambda: of_mm(
        "VisionTransformer", img_size=32, patch_size=8, embed_dims=16, num_heads=2
    ),
    "PVT": lambda: of_mm(
        "PyramidVisionTransformerV2", embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 5, 8]
    ),
    "SVT": lambda: of_mm(
        "SVT",
        embed_dims=[8, 16, 24, 32],
        num_heads=[1, 2, 3, 4],
        mlp_ratios=[2] * 4,
        depths=[2] * 4,
        sr_ratios=[8, 4, 2, 1],
        windiow_sizes=[7] * 4,
        norm_cfg=dict(type="LN"),
    ),
    "transformers": of_transformers,
}


def tensors(model, x) -> list[torch.Tensor]:
    out = model(x)
    out = getattr(out, "logits", out)
    return [out] if isinstance(out, torch.Tensor) else list(out)


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_every_model_is_set_by_the_same_two_functions(kind):
    import mmseg_tome

    torch.manual_seed(0)
    model, x = MODELS[kind](), torch.randn(1, 3, 128, 160)
    model.eval()
    plain = tensors(model, x)
    stages = 1 if kind == "ViT" else 4
    mmseg_tome.set_merging(model, [dict(q=dict(mode="n2d"), kv=dict(mode="n2d"))] * stages)
    merged = tensors(model, x)
    assert not equal(merged, plain)
    with mmseg_tome.without_merging(model):
        for got, expected in zip(tensors(model, x), plain, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert equal(tensors(model, x), merged)
    mmseg_tome.set_merging(model, None)
    for got, expected in zip(tensors(model, x), plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pipelines_of_transformers_are_set_as_well():
    pipeline, x = SimpleNamespace(model=of_transformers().eval()), torch.randn(1, 3, 64, 96)
    set_merging(pipeline, "n2d")
    merged = tensors(pipeline.model, x)
    with without_merging(pipeline) as given:
        assert given is pipeline
        assert not equal(tensors(pipeline.model, x), merged)


@pytest.mark.parametrize("tome_cfg", ["hq", "fast-turbo", "hq-prop", "n2d", None, CUSTOM])
@torch.no_grad()
def test_a_model_that_was_set_is_one_that_was_built(backbone, tome_cfg):
    other = dict(q=dict(mode="bsm", ratio=0.5, stride=(2, 2)), reuse=3, proportional=True)
    model, expected = backbone(tome_cfg=[other] * 4), backbone(tome_cfg=tome_cfg)
    x = torch.randn(IMAGE)
    assert not equal(model(x), expected(x))
    set_merging(Around(model), tome_cfg)
    assert equal(model(x), expected(x))
    assert merging_of(model) == merging_of(expected) == parse_tome_cfg(tome_cfg)
    assert str(model) == str(expected)


def test_what_was_decided_is_forgotten(backbone):
    model = backbone(tome_cfg="hq-auto")
    assert model.auto
    model.merging_stages = [False] * 4
    set_merging(model, "hq")
    assert (model.auto, model.merging_stages) == (False, None)
    set_merging(model, dict(auto="n2d"))
    assert (model.auto, model.merging_stages) == (True, None)


@torch.no_grad()
def test_graphs_of_the_merging_before_are_not_replayed(backbone, recorder):
    model, x = backbone(tome_cfg="n2d"), torch.randn(IMAGE)
    install(model, "inference", patience=0, capture=recorder)
    merged = model(x)
    set_merging(model, None)
    assert equal(model(x), backbone()(x))
    set_merging(model, "n2d")
    assert equal(model(x), merged)
    assert len(recorder.captures) == 3


def test_mistakes_leave_the_model_as_it_is(backbone):
    model = backbone(tome_cfg="hq-auto")
    model.merging_stages = [True, False, True, True]
    before = str(model)
    with pytest.raises(TomeConfigError, match="unknown preset 'hd'"):
        set_merging(model, "hd")
    assert (str(model), model.auto, model.merging_stages) == (
        before,
        True,
        [True, False, True, True],
    )
    with pytest.raises(ValueError, match=r"Linear has no mmseg_tome\.MixVisionTransformer"):
        set_merging(nn.Linear(1, 1), "hq")
    assert merging_backbone(nn.Linear(1, 1)) is None


@pytest.mark.parametrize("tome_cfg", ["hq", "fast", "n2d", "hq-turbo", CUSTOM])
@torch.no_grad()
def test_nothing_merges_inside_and_everything_as_before_after(backbone, tome_cfg):
    merging, plain, x = backbone(tome_cfg=tome_cfg), backbone(), torch.randn(IMAGE)
    before = merging(x)
    assert not equal(before, plain(x))
    with without_merging(merging) as given:
        assert given is merging
        assert equal(merging(x), plain(x))
    assert equal(merging(x), before)


@torch.no_grad()
def test_wherever_the_backbone_is(backbone):
    model, x = Around(Around(backbone(tome_cfg="n2d"))), torch.randn(IMAGE)
    with without_merging(model):
        assert equal(model(x), backbone()(x))


@pytest.mark.parametrize("decided", [None, [True, False, True, False]])
@torch.no_grad()
def test_an_error_inside_leaves_the_model_merging(backbone, decided):
    model, x = backbone(tome_cfg="hq-auto"), torch.randn(IMAGE)
    model.merging_stages = decided
    before = model(x)
    inside = []

    def fail():
        with without_merging(model):
            inside.extend(model(x))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert equal(inside, backbone()(x))
    assert (model.auto, model.merging_stages) == (True, decided)
    assert "forward" not in vars(model)
    assert equal(model(x), before)


@torch.no_grad()
def test_a_captured_graph_is_passed_by(backbone, recorder):
    model, x = backbone(tome_cfg="fast"), torch.randn(IMAGE)
    merged = model(x)
    graphed = install(model, "inference", patience=0, capture=recorder)
    for _ in range(2):
        with without_merging(model):
            assert equal(model(x), backbone()(x))
        assert model.forward is graphed
        assert equal(model(x), merged)
    assert len(recorder.captures) == 1


def test_models_that_do_not_merge_are_refused(backbone):
    refused = pytest.raises(ValueError, match=r"Linear has no token mergers.*MixVisionTransformer")
    with refused, without_merging(nn.Linear(1, 1)):
        pass
    refused = pytest.raises(ValueError, match=r"merges nothing.*tome_cfg")
    with refused, without_merging(backbone()):
        pass


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
@torch.no_grad()
def test_other_backbones_are_switched_off_and_on_as_well(recorder):
    """By graphs or not: a graph merges as it did when it was captured."""
    from mmseg_tome.models import VisionTransformer

    args = dict(img_size=32, patch_size=8, embed_dims=16, num_layers=2, num_heads=2)
    model, x = VisionTransformer(**args, tome_cfg="n2d"), torch.randn(1, 3, 32, 48)
    model.eval()
    merged = model(x)
    install(model, "inference", patience=0, capture=recorder)
    for _ in range(2):
        assert equal(model(x), merged)
        with without_merging(model):
            assert not equal(model(x), merged)
            strategies = [attn.q_merger.strategy for stage in model.attentions() for attn in stage]
            assert strategies == [Identity()] * 2
    assert len(recorder.captures) == 1


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
@torch.no_grad()
def test_stock_backbones_are_set_anew():
    from mmseg_tome.models import VisionTransformer

    args = dict(img_size=32, patch_size=8, embed_dims=16, num_layers=4, num_heads=2)
    how = dict(q=dict(mode="bsm", ratio=0.5, stride=(2, 2)), reuse=2, proportional=True)
    torch.manual_seed(0)
    expected, model = (VisionTransformer(**args, tome_cfg=cfg) for cfg in (how, "n2d"))
    expected.eval(), model.eval()  # mmseg's returns None
    x = torch.randn(1, 3, 32, 48)
    model.load_state_dict(expected.state_dict())
    assert not equal(model(x), expected(x))
    set_merging(Around(model), how)
    assert equal(model(x), expected(x))
    with pytest.raises(TomeConfigError, match="unknown preset 'hd'"):
        set_merging(model, "hd")
    assert equal(model(x), expected(x))


@torch.no_grad()
def test_a_segformer_of_transformers_is_set_and_switched_off_as_well():
    transformers = pytest.importorskip("transformers")
    from mmseg_tome.huggingface import apply_merging

    torch.manual_seed(0)
    sizes = dict(
        hidden_sizes=[8, 16, 40, 64], depths=[1, 1, 2, 1], num_attention_heads=[1, 2, 5, 8]
    )
    config = transformers.SegformerConfig(**sizes)
    model, x = transformers.SegformerModel(config).eval(), torch.randn(1, 3, 64, 96)
    plain = model(x).last_hidden_state
    set_merging(Around(model), "hq-turbo")
    merged = model(x).last_hidden_state
    with without_merging(model):
        torch.testing.assert_close(model(x).last_hidden_state, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(x).last_hidden_state, merged)
    assert torch.equal(apply_merging(model, "hq-turbo")(x).last_hidden_state, merged)
    assert not torch.equal(merged, plain)
