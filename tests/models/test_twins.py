"""Twins-SVT: global attention merges, attention within windows stays as it is."""

import pytest
import torch

from mmseg_tome import compat

if not compat.has("mmseg"):
    pytest.skip("needs mmseg", allow_module_level=True)

from mmseg.models.backbones import twins as stock

from mmseg_tome.models import SVT
from mmseg_tome.models.twins import GlobalSubsampledAttention

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = dict(
    embed_dims=[8, 16], num_heads=[1, 2], mlp_ratios=[2, 2], depths=[3, 6], sr_ratios=[2, 1],
    windiow_sizes=[3, 2], patch_sizes=[4, 2], strides=[4, 2], out_indices=(0, 1),
)  # fmt: skip
N2D = dict(mode="n2d", stride=(2, 2))
BSM = dict(mode="bsm", ratio=0.5, stride=(2, 2))


def test_attention_within_windows_is_the_stock_one():
    backbone = SVT(**TINY, tome_cfg=[dict(q=N2D, kv=N2D)] * 2)
    for blocks in backbone.layers:
        for j, block in enumerate(blocks):
            local, ours = stock.LocallyGroupedSelfAttention, GlobalSubsampledAttention
            assert type(block.attn) is (ours if j % 2 else local)


def test_the_first_block_of_a_stage_sees_every_token():
    """Its attention works in windows, so merging changes nothing before the second block."""
    plain, merging = SVT(**TINY), SVT(**TINY, tome_cfg=[dict(q=N2D), {}])
    merging.load_state_dict(plain.state_dict())
    seen = []
    for backbone in (plain, merging):
        backbone.eval()
        for block in backbone.layers[0][:2]:
            block.register_forward_hook(lambda _m, _i, out: seen.append(out))
        backbone(torch.randn(1, 3, 33, 50, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(seen[0], seen[2])
    assert not torch.allclose(seen[1], seen[3])


@pytest.mark.parametrize("reuse", [1, 2, 3])
def test_reuse_counts_blocks_with_global_attention(reuse):
    backbone = SVT(**TINY, tome_cfg=[dict(q=BSM, kv=BSM, reuse=reuse)] * 2).eval()
    slots = {}
    for i, (_, attentions) in enumerate(backbone.stages()):
        assert len(attentions) == (1, 3)[i]
        for j, attn in enumerate(attentions):
            attn.q_merger.register_forward_hook(
                lambda _m, _i, out, key=(i, j): slots.update({key: out})
            )
    backbone(torch.randn(2, 3, 64, 64))
    for i, j in slots:
        assert slots[i, j] is slots[i, j - j % reuse]
    assert len({id(used) for (i, _), used in slots.items() if i == 1}) == -(-3 // reuse)


def test_a_stage_without_global_attention_merges_nothing():
    backbone = SVT(**dict(TINY, depths=[1, 2]), tome_cfg=[dict(q=N2D)] * 2).eval()
    backbone(torch.randn(1, 3, 32, 32))
    assert backbone.tokens_kept((32, 32)) == [{}, {"q": (4, 16), "kv": (16, 16)}]
