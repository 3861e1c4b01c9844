import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

IMAGE = (2, 3, 64, 96)


@pytest.fixture
def backbone():
    """Backbones of the same weights, whatever they merge."""
    from mmseg_tome.models import MixVisionTransformer

    def build(**kwargs) -> MixVisionTransformer:
        torch.manual_seed(0)
        sizes = dict(embed_dims=8, num_layers=(2, 2, 2, 2), num_heads=(1, 2, 4, 4))
        model = MixVisionTransformer(**sizes, **kwargs)
        model.init_weights()
        return model.eval()

    return build


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("tome_cfg", ["hq", "fast", "n2d", "hq-turbo", [dict(reuse=2)] * 3 + [
    dict(q=dict(mode="n1d", stride=2))
]])  # fmt: skip
@torch.no_grad()
def test_nothing_merges_inside_and_everything_as_before_after(backbone, tome_cfg):
    from mmseg_tome.evaluation import without_merging

    merging, plain, x = backbone(tome_cfg=tome_cfg), backbone(), torch.randn(IMAGE)
    before = merging(x)
    assert not equal(before, plain(x))
    with without_merging(merging) as given:
        assert given is merging
        assert equal(merging(x), plain(x))
    assert equal(merging(x), before)


@torch.no_grad()
def test_wherever_the_backbone_is(backbone):
    from mmseg_tome.evaluation import without_merging

    class Around(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x)

    model, x = Around(Around(backbone(tome_cfg="n2d"))), torch.randn(IMAGE)
    with without_merging(model):
        assert equal(model(x), backbone()(x))


@torch.no_grad()
def test_an_error_inside_leaves_the_model_merging(backbone):
    from mmseg_tome.evaluation import without_merging

    model = backbone(tome_cfg="hq-auto")
    strategies = [block.attn.kv_merger.strategy for block in model.layers[0][1]]
    auto = model.auto
    with pytest.raises(RuntimeError, match="stop"), without_merging(model):
        raise RuntimeError("stop")
    assert [block.attn.kv_merger.strategy for block in model.layers[0][1]] == strategies
    assert model.auto is auto
    assert "forward" not in vars(model)


@torch.no_grad()
def test_no_stage_is_timed_without_merging(backbone):
    from mmseg_tome.evaluation import without_merging

    model, x = backbone(tome_cfg="hq-auto"), torch.randn(IMAGE)
    with without_merging(model):
        assert equal(model(x), backbone()(x))
    assert model.auto.decisions == {}
    model(x)
    assert len(model.auto.decisions) == 4


@torch.no_grad()
def test_a_captured_graph_is_passed_by(backbone):
    from mmseg_tome.evaluation import without_merging
    from mmseg_tome.inference.acceleration import GraphedFunction

    captured = []

    def capture(function, tensors):
        captured.append(True)
        outputs = function(*tensors)  # what is replayed from now on
        return lambda: outputs

    model, x = backbone(tome_cfg="fast"), torch.randn(IMAGE)
    merged = model(x)
    model.forward = graphed = GraphedFunction(model.forward, capture=capture)
    with without_merging(model):
        assert equal(model(x), backbone()(x))
        assert not captured
    assert model.forward is graphed
    assert equal(model(x), merged)
    with without_merging(model):
        assert equal(model(x), backbone()(x))
    assert equal(model(x), merged)
    assert captured == [True]


def test_models_that_do_not_merge_are_refused(backbone):
    from mmseg_tome.evaluation import without_merging

    refused = pytest.raises(ValueError, match=r"Linear has no token mergers.*MixVisionTransformer")
    with refused, without_merging(nn.Linear(1, 1)):
        pass
    refused = pytest.raises(ValueError, match=r"merges nothing.*tome_cfg")
    with refused, without_merging(backbone()):
        pass


def test_graphs_of_other_backbones_are_left_out_as_well():
    """A graph merges as it did when it was captured."""
    from mmseg_tome.evaluation.unmerged import without_merging
    from mmseg_tome.inference.acceleration import GraphedFunction
    from mmseg_tome.models import VisionTransformer

    args = dict(img_size=32, patch_size=8, embed_dims=16, num_layers=2, num_heads=2)
    backbone = VisionTransformer(**args, tome_cfg="n2d")
    backbone.forward = graphed = GraphedFunction(backbone.forward)
    with without_merging(backbone):
        assert backbone.forward == graphed.function
    assert backbone.forward is graphed
