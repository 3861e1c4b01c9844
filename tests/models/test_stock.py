"""A drop-in for the stock mmseg modules: same weights, same initialisation, same outputs."""

import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.models import MixVisionTransformer

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="the stock modules are mmseg's")

B0_TO_B5 = {
    "b0": (32, [2, 2, 2, 2]),
    "b1": (64, [2, 2, 2, 2]),
    "b2": (64, [3, 4, 6, 3]),
    "b3": (64, [3, 4, 18, 3]),
    "b4": (64, [3, 8, 27, 3]),
    "b5": (64, [3, 6, 40, 3]),
}
SIZES = dict(num_heads=[1, 2, 5, 8], sr_ratios=[8, 4, 2, 1])
HEAD = dict(
    in_channels=[32, 64, 160, 256], in_index=[0, 1, 2, 3], channels=32, num_classes=7,
    norm_cfg=dict(type="BN"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def scope_of_mmseg():
    """Stock modules look their parts up in mmseg's registry, whatever other tests left behind."""
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def stock(name, **kwargs):
    import mmseg.models

    return getattr(mmseg.models, name)(**kwargs)


@pytest.mark.parametrize("size", B0_TO_B5)
def test_state_dict_loads_and_outputs_are_equal(size):
    embed_dims, num_layers = B0_TO_B5[size]
    args = dict(embed_dims=embed_dims, num_layers=num_layers, **SIZES)
    theirs = stock("MixVisionTransformer", **args).eval()
    ours = MixVisionTransformer(**args).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(1, 3, 68, 97)
    with torch.inference_mode():
        for out, expected in zip(ours(image), theirs(image), strict=True):
            assert out.shape == expected.shape
            assert (out - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("initialise", [False, True])
def test_initial_weights_are_the_same_draws(initialise):
    states = []
    for build in (lambda **a: stock("MixVisionTransformer", **a), MixVisionTransformer):
        torch.manual_seed(3)
        model = build(embed_dims=16, num_layers=[1, 2, 1, 1], **SIZES)
        if initialise:
            model.init_weights()
        states.append(model.state_dict())
    theirs, ours = states
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_gradients_are_equal():
    args = dict(embed_dims=16, num_layers=[1, 1, 1, 1], **SIZES)
    theirs, ours = stock("MixVisionTransformer", **args), MixVisionTransformer(**args)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 64, 96).double()
    weights = [torch.randn_like(out) for out in ours.double()(image)]
    for model in (theirs.double(), ours):
        pairs = zip(model(image), weights, strict=True)
        sum((out * weight).sum() for out, weight in pairs).backward()
    for (name, p), q in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)


def test_default_arguments_are_those_of_the_stock_backbone():
    import inspect

    from mmseg.models import MixVisionTransformer as Stock

    def comparable(value):
        return tuple(value) if isinstance(value, list) else value

    theirs = inspect.signature(Stock).parameters
    ours = inspect.signature(MixVisionTransformer).parameters
    assert set(ours) - set(theirs) == {"tome_cfg", "down_sample"}
    for name, parameter in theirs.items():
        assert comparable(ours[name].default) == comparable(parameter.default), name


NORMS = {
    "bn": dict(type="BN"),
    "bn without affine": dict(type="BN", affine=False),
    "gn": dict(type="GN", num_groups=4),
    "none": None,
}


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_head_fuses_before_upsampling_to_the_same_outputs_and_gradients(mode, training, norm):
    from mmseg_tome.models import SegformerHead

    args = dict(HEAD, interpolate_mode=mode, dropout_ratio=0, norm_cfg=NORMS[norm])
    theirs = stock("SegformerHead", **args).double()
    for name, value in theirs.state_dict().items():  # statistics and affine of a trained norm
        if name.endswith(("running_mean", "bn.weight", "bn.bias", "conv.bias")):
            value.normal_()
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    ours = SegformerHead(**args).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    levels = [
        torch.randn(2, c, *hw).double()
        for c, hw in zip(HEAD["in_channels"], [(17, 24), (9, 12), (5, 6), (3, 3)], strict=True)
    ]
    grads = []
    for head in (theirs, ours):
        head.train(training)
        inputs = [level.clone().requires_grad_() for level in levels]
        out = head(inputs)
        out.square().sum().backward()
        grads.append([out, *(x.grad for x in inputs), *(p.grad for p in head.parameters())])
    for expected, value in zip(*grads, strict=True):
        torch.testing.assert_close(value, expected)


def test_head_takes_half_precision_and_channels_first():
    from mmseg_tome.models import SegformerHead

    head = SegformerHead(**HEAD).eval()
    levels = [torch.randn(1, c, 8, 8) for c in HEAD["in_channels"]]
    expected = head(levels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = head([level.to(memory_format=torch.channels_last) for level in levels])
    assert half.dtype == torch.bfloat16
    assert (half - expected).norm() / expected.norm() < 0.05
