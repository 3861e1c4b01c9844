"""What a plain ViT has of its own: a class token, one stage, outputs of single blocks."""

import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.merging import PRESETS, SlotMap, TomeConfigError, parse_tome_cfg
from mmseg_tome.ops import SegmentOrder
from mmseg_tome.ops.segment import segment_order_torch

if not compat.has("mmseg"):
    pytest.skip("needs mmseg", allow_module_level=True)

from mmseg.models.backbones import VisionTransformer as Stock

from mmseg_tome.models.vision_transformer import VisionTransformer, keep_first

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = dict(img_size=(32, 48), patch_size=8, embed_dims=16, num_layers=3, num_heads=2, mlp_ratio=2)
BSM = dict(mode="bsm", ratio=0.6, stride=(2, 2))
MERGING = dict(q=BSM, kv=BSM)


def ready(backbone):
    backbone.init_weights()
    backbone.eval()
    return backbone


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(with_cls_token=False),
        dict(output_cls_token=True, out_indices=(0, 2)),
        dict(out_origin=True),
        dict(out_origin=True, output_cls_token=True, out_indices=[1]),
        dict(pre_norm=True, final_norm=True, out_indices=(1, 2)),
        dict(qkv_bias=False, patch_norm=True),
    ],
)
@pytest.mark.parametrize("size", [(32, 48), (41, 30)])
def test_outputs_are_the_stock_ones_for_every_option(options, size):
    theirs, ours = ready(Stock(**TINY, **options)), ready(VisionTransformer(**TINY, **options))
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        outs, expected = ours(image), theirs(image)
    assert isinstance(outs, tuple)
    torch.testing.assert_close(outs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_cls_token", [True, False])
def test_the_class_token_never_merges(with_cls_token):
    backbone = ready(VisionTransformer(**TINY, with_cls_token=with_cls_token, tome_cfg=MERGING))
    used, found = [], []
    for layer in backbone.layers:
        layer.attn.q_merger.register_forward_hook(lambda _m, args, slots: found.append(args[0]))
        queries = layer.attn.queries

        def spy(x, hw, queries=queries):
            q, slots = queries(x, hw)
            used.append((x, q, slots))
            return q, slots

        layer.attn.queries = spy
    backbone(torch.randn(2, 3, 32, 48))
    first = int(with_cls_token)
    assert len(used) == len(found) == 3
    for (x, q, slots), metric in zip(used, found, strict=True):
        assert metric.shape[1] == 24
        assert x.shape[1] == slots.slot.shape[1] == 24 + first
        assert q.shape[2] == slots.num_slots == 24 - int(24 * 0.6) + first
        if with_cls_token:
            assert (slots.slot[:, 0] == 0).all()
            assert (slots.slot[:, 1:] > 0).all()
            assert torch.equal(slots.merge(x)[:, 0], x[:, 0])


def test_keeping_a_token_keeps_the_order_right():
    slot = torch.tensor([[0, 1, 1, 2, 1], [2, 2, 0, 0, 1]])
    kept = keep_first(SlotMap(slot, 3, SegmentOrder(*segment_order_torch(slot, 3))))
    assert kept.slot.tolist() == [[0, 1, 2, 2, 3, 2], [0, 3, 3, 1, 1, 2]]
    assert kept.num_slots == 4
    assert kept.order.largest == 5
    for ours, expected in zip(kept.order[:2], segment_order_torch(kept.slot, 4)[:2], strict=True):
        assert torch.equal(ours, expected)
        assert ours.dtype == expected.dtype


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_third_stage(name):
    backbone = VisionTransformer(**TINY, tome_cfg=name)
    third = parse_tome_cfg(name)[2]
    for j, layer in enumerate(backbone.layers):
        attn = layer.attn
        assert (attn.q_merger.strategy, attn.kv_merger.strategy) == (third.q, third.kv)
        group = (0, "q", j // third.reuse) if third.reuse > 1 else None
        assert attn.q_merger.group == group
        assert attn.proportional == third.proportional


def test_one_dict_and_a_list_of_one_are_the_same():
    image = torch.randn(1, 3, 32, 48)
    one, listed = (ready(VisionTransformer(**TINY, tome_cfg=cfg)) for cfg in (MERGING, [MERGING]))
    listed.load_state_dict(one.state_dict())
    assert torch.equal(one(image)[0], listed(image)[0])


@pytest.mark.parametrize(
    ("tome_cfg", "message"),
    [
        (dict(q=dict(mode="bms")), "tome_cfg, stage 1, q: unknown mode 'bms'; allowed: bsm"),
        (dict(kv=dict(mode="bsm", ratio=1)), "stage 1, kv, mode 'bsm': ratio must be a number"),
        (dict(qq=None), "stage 1: unknown key 'qq'; allowed: kv, proportional, q, reuse"),
        ([{}] * 4, "has 4 entries, the backbone has 1 stages"),
        (7, "must be None, a preset's name or a list"),
        ("n2d-auto", "only mmseg_tome.MixVisionTransformer can choose by time"),
        (dict(auto="hq"), "only mmseg_tome.MixVisionTransformer can choose by time"),
    ],
)
def test_bad_settings_are_named(tome_cfg, message):
    with pytest.raises(TomeConfigError, match=message):
        VisionTransformer(**TINY, tome_cfg=tome_cfg)


def test_checkpointing_does_not_change_gradients_whatever_runs_in_between():
    """A block that is recomputed merges by the maps of its own pass, not of the latest one."""
    how = dict(MERGING, reuse=2)
    plain = VisionTransformer(**TINY, tome_cfg=how)
    plain.init_weights()
    checkpointed = VisionTransformer(**TINY, tome_cfg=how, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    images = [torch.randn(2, 3, *size) for size in ((32, 48), (48, 32), (32, 48))]
    for backbone in (plain, checkpointed):
        outs = [backbone(image)[0] for image in images]
        outs[0].square().sum().backward()
    for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)
