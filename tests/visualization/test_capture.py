import pytest
import torch
from torch import nn

from mmseg_tome import compat
from mmseg_tome.visualization import capture_slot_maps
from mmseg_tome.visualization.capture import record_passes

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


def test_a_block_that_reuses_slot_maps_shows_what_it_merged_by():
    from mmseg_tome.models import MixVisionTransformer

    model = MixVisionTransformer(
        embed_dims=8, num_layers=(1, 1, 3, 1), num_heads=(1, 2, 4, 4), tome_cfg="hq-turbo"
    ).eval()
    with torch.no_grad(), capture_slot_maps(model) as captured:
        model(torch.randn(1, 3, 64, 64))
    first = captured[2, 0, "q"].slots
    assert first.num_slots < 16
    assert all(captured[2, j, "q"].slots is first for j in (1, 2))


def test_automatic_choice_shows_what_it_chose(backbone):
    backbone.merging_stages = [False] * 4
    with torch.no_grad(), capture_slot_maps(backbone) as captured:
        backbone(torch.randn(1, 3, 64, 64))
    assert len(captured) == 10
    assert all(slots.num_slots == hw[0] * hw[1] for slots, hw in captured.values())


def test_passes_are_kept_apart(backbone):
    images = [torch.randn(1, 3, 64, 64), torch.randn(2, 3, 64, 128)]
    with torch.no_grad(), record_passes(backbone) as passes:
        for image in images:
            backbone(image)
    backbone(images[0])
    assert len(passes) == 2
    for each, image in zip(passes, images, strict=True):
        torch.testing.assert_close(each.image, image)
        assert len(each.slots) == 10
        assert each.slots[0, 0, "q"].hw == (16, image.shape[3] // 4)


def test_a_pass_that_runs_no_blocks_has_no_slot_maps(backbone):
    """As one that replays a CUDA graph; those of the pass before are not its own."""
    image = torch.zeros(1, 3, 64, 64)
    with torch.no_grad(), record_passes(backbone) as passes:
        backbone(image)
        backbone.forward = lambda image: [image]
        backbone(image)
    assert [len(each.slots) for each in passes] == [10, 0]


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
@pytest.mark.parametrize("name", ["PCPVT", "SVT", "VisionTransformer"])
def test_stock_backbones_are_read_as_they_merge(name):
    from mmseg_tome import models

    bsm = dict(mode="bsm", ratio=0.5, stride=(2, 2))
    how = dict(q=bsm, kv=dict(mode="n2d", stride=(2, 2)), reuse=2)
    if name == "VisionTransformer":
        args = dict(img_size=32, patch_size=8, embed_dims=16, num_layers=3, num_heads=2)
        backbone = models.VisionTransformer(**args, tome_cfg=how)
    else:
        args = dict(
            embed_dims=[8, 16], num_heads=[1, 2], mlp_ratios=[2, 2], depths=[2, 6],
            sr_ratios=[2, 1], patch_sizes=[4, 2], strides=[4, 2], out_indices=(0, 1),
        )  # fmt: skip
        backbone = getattr(models, name)(**args, tome_cfg=[how] * 2)
    backbone.eval()
    size = (40, 48)
    with torch.no_grad(), capture_slot_maps(backbone) as captured:
        backbone(torch.randn(2, 3, *size))
    blocks = [len(attentions) for attentions in backbone.attentions()]
    assert set(captured) == {
        (i, j, kind) for i, n in enumerate(blocks) for j in range(n) for kind in ("q", "kv")
    }
    for (i, j, kind), (slots, hw) in captured.items():
        assert slots.slot.shape[1] == hw[0] * hw[1]
        kept = (slots.num_slots, slots.slot.shape[1])
        assert backbone.tokens_kept(size)[i][kind] == kept
        assert slots is captured[i, j - j % 2, kind].slots


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
def test_windows_are_recorded_as_views_of_the_image():
    """Batches of windows are copies; where those lie in the image could not be told."""
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    from mmseg_tome.registry import MODELS

    test_cfg = dict(mode="slide", crop_size=(64, 64), stride=(32, 32), window_batch=3)
    head = dict(
        type="mmseg_tome.SegformerHead", in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3],
        channels=16, num_classes=5, norm_cfg=dict(type="BN"),
    )  # fmt: skip
    backbone = dict(
        type="mmseg_tome.MixVisionTransformer", embed_dims=8, num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 5, 8], tome_cfg="hq",
    )  # fmt: skip
    parts = ConfigDict(backbone=backbone, decode_head=head, test_cfg=test_cfg)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(dict(type="mmseg_tome.EncoderDecoder", **parts)).eval()
    model.labels_only = True
    image = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        with record_passes(model) as passes:
            seen = model.predict(image)[0]
        alone = model.predict(image)[0]
    assert len(passes) == 3
    assert {each.image.data_ptr() - image.data_ptr() for each in passes} == {0, 32 * 4, 64 * 4}
    assert "seg_logits" in seen
    assert "seg_logits" not in alone
    assert torch.equal(seen.pred_sem_seg.data, alone.pred_sem_seg.data)
    assert "slide_inference" not in vars(model)
