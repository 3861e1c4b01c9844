"""The head with linear projections: its definition, and training."""

import pytest
import torch
import torch.nn.functional as F

from mmseg_tome import compat

pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def head():
    from mmseg_tome.models import SegformerLinearHead

    return SegformerLinearHead(
        in_channels=[4, 6, 8],
        in_index=[0, 1, 2],
        channels=5,
        num_classes=3,
        dropout_ratio=0,
        norm_cfg=dict(type="BN"),
        loss_decode=dict(type="mmseg.CrossEntropyLoss"),
    )


def by_definition(head, levels):
    size = levels[0].shape[2:]
    projected = [module.conv(x) for x, module in zip(levels, head.convs, strict=True)]
    resized = [F.interpolate(x, size, mode="bilinear") for x in projected]
    fused = head.fusion_conv.bn(head.fusion_conv.conv(torch.cat(resized, 1))).relu()
    return head.conv_seg(fused)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sizes", [[(8, 12), (4, 6), (2, 3)], [(9, 13), (5, 7), (3, 4)]])
def test_definition(head, training, sizes):
    head.train(training)
    levels = [torch.randn(2, c, *hw) for c, hw in zip((4, 6, 8), sizes, strict=True)]
    found, expected = head(levels), by_definition(head, levels)
    torch.testing.assert_close(found, expected)
    losses = [logits.square().sum() for logits in (found, expected)]
    gradients = [torch.autograd.grad(loss, list(head.parameters())) for loss in losses]
    # In training the norm takes the mean of a bias away again: its gradient is rounding alone.
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_names_of_parameters(head):
    names = [name for name, _ in head.named_parameters()]
    assert "convs.0.conv.bias" in names
    assert not [name for name in names if name.startswith("convs.") and ".bn." in name]
