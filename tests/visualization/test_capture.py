import pytest
import torch
from torch import nn

from mmseg_tome.visualization import capture_slot_maps

pytest.importorskip("mmengine")


@pytest.fixture
def backbone():
    from mmseg_tome.models import MixVisionTransformer

    return MixVisionTransformer(
        embed_dims=8, num_layers=(1, 2, 1, 1), num_heads=(1, 2, 4, 4), tome_cfg="hq"
    ).eval()


def test_every_merger_is_captured_on_its_own_grid(backbone):
    with torch.no_grad(), capture_slot_maps(backbone) as captured:
        backbone(torch.randn(2, 3, 64, 128))
    blocks = [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)]
    assert set(captured) == {(*block, name) for block in blocks for name in ("q", "kv")}
    for slots, hw in captured.values():
        assert slots.slot.shape[1] == hw[0] * hw[1]
    # Stride 4 and reduction 8: keys and values of the first stage are on the reduced grid.
    assert captured[0, 0, "q"].hw == (16, 32)
    assert captured[0, 0, "kv"].hw == (2, 4)
    # hq merges keys and values early, queries late.
    assert captured[1, 1, "kv"].slots.num_slots < 2 * 4
    assert captured[2, 0, "q"].slots.num_slots == 4 * 8 - int(0.8 * 4 * 8)


def test_a_model_around_the_backbone_will_do(backbone):
    model = nn.Module()
    model.backbone = backbone
    with torch.no_grad(), capture_slot_maps(model) as captured:
        backbone(torch.randn(1, 3, 64, 64))
    assert len(captured) == 10


def test_the_hooks_go_even_after_an_error(backbone):
    with pytest.raises(RuntimeError, match="stop"), capture_slot_maps(backbone) as captured:
        raise RuntimeError("stop")
    with torch.no_grad():
        backbone(torch.randn(1, 3, 64, 64))
    assert captured == {}
    assert not any(module._forward_hooks for module in backbone.modules())


def test_a_backbone_without_mergers_is_refused():
    refused = pytest.raises(TypeError, match=r"mmseg_tome\.MixVisionTransformer")
    with refused, capture_slot_maps(nn.Linear(1, 1)):
        pass
