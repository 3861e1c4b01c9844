"""The head's fusion, at once and in bands of rows, against its definition."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule

from mmseg_tome.nets import fusion
from mmseg_tome.nets.fusion import fuse_levels, upsample_rows

CHANNELS, WIDTH = (4, 6, 8, 10), 12


def modules(norm=dict(type="BN")):
    convs = [ConvModule(c, WIDTH, 1, norm_cfg=norm) for c in CHANNELS]
    fusion_conv = ConvModule(4 * WIDTH, WIDTH, 1, norm_cfg=norm)
    for module in (*convs, fusion_conv):
        module.eval()
        if norm["type"] == "BN":
            module.bn.running_mean.normal_()
            module.bn.running_var.uniform_(0.5, 2)
    return convs, fusion_conv


def levels(hw, batch=2, dtype=torch.float32):
    sizes = [tuple(-(-side // 2**i) for side in hw) for i in range(4)]
    return [torch.randn(batch, c, *s, dtype=dtype) for c, s in zip(CHANNELS, sizes, strict=True)]


def definition(feats, convs, fusion_conv, predict, mode="bilinear", align_corners=False):
    resized = [
        F.interpolate(conv(x), feats[0].shape[2:], mode=mode, align_corners=align_corners)
        for conv, x in zip(convs, feats, strict=True)
    ]
    return predict(fusion_conv(torch.cat(resized, dim=1)))


@pytest.fixture
def bands(monkeypatch):
    """How many rows were resized at a time."""
    heights = []
    real = fusion.upsample_rows
    monkeypatch.setattr(
        fusion,
        "upsample_rows",
        lambda x, hw, top, bottom: heights.append(bottom - top) or real(x, hw, top, bottom),
    )
    return heights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hw", [(32, 24), (56, 16)])
@torch.inference_mode()
def test_bands_equal_the_definition(monkeypatch, bands, dtype, hw):
    monkeypatch.setattr(fusion, "BAND_BYTES", 1)
    convs, fusion_conv = modules()
    feats, predict = levels(hw), torch.neg
    expected = definition(feats, convs, fusion_conv, predict)
    for module in (*convs, fusion_conv):
        module.to(dtype)
    out = fuse_levels([x.to(dtype) for x in feats], convs, fusion_conv, predict)
    assert set(bands) == {8}
    limits = dict(rtol=0.1, atol=0.1) if dtype == torch.bfloat16 else dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out, expected, check_dtype=False, **limits)


@pytest.mark.parametrize("case", ["odd size", "group norm", "other resizing", "gradients"])
def test_what_bands_cannot_do_is_done_at_once(monkeypatch, bands, case):
    monkeypatch.setattr(fusion, "BAND_BYTES", 1)
    convs, fusion_conv = modules(dict(type="GN", num_groups=3) if case == "group norm" else {
        "type": "BN"
    })  # fmt: skip
    feats = levels((33, 24) if case == "odd size" else (32, 24))
    options = dict(align_corners=True) if case == "other resizing" else {}
    with torch.set_grad_enabled(case == "gradients"):
        out = fuse_levels(feats, convs, fusion_conv, torch.neg, **options)
        expected = definition(feats, convs, fusion_conv, torch.neg, **options)
    assert bands == []
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 8])
def test_upsampled_rows_are_those_of_the_whole(scale):
    x = torch.randn(2, 3, 5, 4)
    hw = (5 * scale, 4 * scale)
    whole = F.interpolate(x, hw, mode="bilinear", align_corners=False)
    for top in range(0, hw[0], scale):
        for bottom in range(top + scale, hw[0] + 1, scale):
            rows = upsample_rows(x, hw, top, bottom)
            torch.testing.assert_close(rows, whole[:, :, top:bottom], rtol=1e-6, atol=1e-6)
