"""PVT: position embeddings lie among its blocks, and are resized to the grid at hand."""

import pytest
import torch

from mmseg_tome import compat

if not compat.has("mmpose"):
    pytest.skip("needs mmpose", allow_module_level=True)

from mmpose.models.backbones import pvt as stock

from mmseg_tome.models import PyramidVisionTransformer, PyramidVisionTransformerV2

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = dict(
    embed_dims=8, num_layers=[1, 2, 3, 1], num_heads=[1, 2, 2, 4], sr_ratios=[8, 4, 2, 1],
    mlp_ratios=[2] * 4,
)  # fmt: skip
BSM = dict(mode="bsm", ratio=0.5, stride=(2, 2))


@pytest.mark.parametrize("pretrain_img_size", [32, (64, 32)])
def test_position_embeddings_of_another_size_are_resized_as_the_stock_ones(pretrain_img_size):
    args = dict(TINY, pretrain_img_size=pretrain_img_size)
    theirs = stock.PyramidVisionTransformer(**args).eval()
    theirs.init_weights()
    ours = PyramidVisionTransformer(**args, tome_cfg=[dict(q=dict(mode="none"))] * 4).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 70, 101)
    with torch.no_grad():
        for out, expected in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [PyramidVisionTransformer, PyramidVisionTransformerV2])
def test_reuse_counts_blocks_not_position_embeddings(cls):
    backbone = cls(**TINY, tome_cfg=[dict(q=BSM, reuse=2)] * 4).eval()
    found = []
    for i, (_, attentions) in enumerate(backbone.stages()):
        assert len(attentions) == TINY["num_layers"][i]
        groups = [attn.q_merger.group for attn in attentions]
        assert groups == [(i, "q", j // 2) for j in range(len(attentions))]
        for j, attn in enumerate(attentions):
            attn.q_merger.register_forward_hook(
                lambda _m, _i, out, key=(i, j): found.append((key, out))
            )
    backbone(torch.randn(1, 3, 64, 64))
    found = dict(found)
    assert found[2, 0] is found[2, 1]
    assert found[2, 1] is not found[2, 2]
