"""The pose head against a plain restatement, MMPose's own steps around it, and its codecs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope

from mmseg_tome import compat
from mmseg_tome.registry import MODELS

pytestmark = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")

CHANNELS = [8, 16, 40, 64]
CODEC = dict(input_size=(96, 128), heatmap_size=(24, 32), sigma=2)
MSRA, UDP = (dict(type=f"{name}Heatmap", **CODEC) for name in ("MSRA", "UDP"))
K = 5


@pytest.fixture
def head():
    """Build a head with any further arguments."""

    def build(**kwargs):
        cfg = dict(type="mmseg_tome.SegformerHeatmapHead", in_channels=CHANNELS, out_channels=K)
        with DefaultScope.overwrite_default_scope("mmpose"):
            module = MODELS.build(cfg | dict(channels=12) | kwargs)
            module.init_weights()
        for norm in module.modules():  # statistics that matter
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
        return module

    return build


def features(batch=2, hw=(32, 24)):
    return [
        torch.randn(batch, c, -(-hw[0] // 2**i), -(-hw[1] // 2**i)) for i, c in enumerate(CHANNELS)
    ]


def samples(head, codec, batch=2):
    """Data samples with a person each, whose targets the codec made."""
    from mmengine.structures import InstanceData, PixelData
    from mmpose.structures import PoseDataSample

    rng = np.random.default_rng(0)
    out = []
    for _ in range(batch):
        sample = PoseDataSample(
            metainfo=dict(
                flip_indices=[0, 2, 1, 4, 3],
                input_size=codec["input_size"],
                input_center=np.array([48.0, 64.0]),
                input_scale=np.array([96.0, 128.0]),
            )
        )
        points = rng.uniform((10, 10), (80, 110), (1, K, 2)).astype(np.float32)
        encoded = head.decoder.encode(points, np.ones((1, K), np.float32))
        sample.gt_fields = PixelData(heatmaps=torch.from_numpy(encoded["heatmaps"]))
        labels = dict(keypoint_weights=torch.from_numpy(encoded["keypoint_weights"]))
        sample.gt_instance_labels = InstanceData(**labels)
        sample.gt_instances = InstanceData(keypoints=points)
        out.append(sample)
    return out


def restated(head, feats):
    """The definition: project, resize, concatenate, fuse, predict."""
    projected = [
        F.interpolate(conv(x), feats[0].shape[2:], mode="bilinear", align_corners=False)
        for conv, x in zip(head.convs, feats, strict=True)
    ]
    return head.final_layer(head.fusion_conv(torch.cat(projected, dim=1)))


@pytest.mark.parametrize("norm", [dict(type="BN"), dict(type="GN", num_groups=3), None])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("hw", [(32, 24), (25, 19)])
def test_forward_and_gradients_are_those_of_the_definition(head, norm, training, hw):
    module = head(norm_cfg=norm).double().train(training)
    feats = [x.double().requires_grad_() for x in features(hw=hw)]
    weight = torch.randn(2, K, *hw).double()
    found = []
    for forward in (module, lambda x: restated(module, x)):
        heatmaps = forward(feats)
        parameters = [*feats, *module.parameters()]
        grads = torch.autograd.grad((heatmaps * weight).sum(), parameters)
        found.append([heatmaps, *grads])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(head, dtype):
    module = head().eval()
    feats = features()
    expected = restated(module, feats)
    out = module.to(dtype)([x.to(dtype) for x in feats])
    assert out.dtype == torch.float32  # for numpy
    assert (out - expected).norm() / expected.norm() < 3e-2


def test_state_dict_keys_are_those_of_the_authors_checkpoints(head):
    keys = {key for key in head().state_dict() if not key.endswith("num_batches_tracked")}
    norm = ("weight", "bias", "running_mean", "running_var")
    parts = [*(f"convs.{i}" for i in range(4)), "fusion_conv"]
    expected = {f"{part}.conv.weight" for part in parts}
    expected |= {f"{part}.bn.{name}" for part in parts for name in norm}
    assert keys == expected | {"final_layer.weight", "final_layer.bias"}


def test_heatmaps_begin_small_and_levels_do_not(head):
    module = head()
    assert module.final_layer.weight.std() < 2e-3
    assert module.convs[0].conv.weight.std() > 0.1


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("codec", [MSRA, UDP], ids=["msra", "udp"])
def test_flip_test_averages_with_the_mirrored_image(head, codec, shift):
    module = head(decoder=codec).eval()
    feats, mirrored = features(), features()
    test_cfg = dict(flip_test=True, flip_mode="heatmap", shift_heatmap=shift, output_heatmaps=True)
    with torch.no_grad():
        keypoints, fields = module.predict([feats, mirrored], samples(module, codec), test_cfg)
        back = restated(module, mirrored).flip(3)[:, [0, 2, 1, 4, 3]]
        if shift:
            back[..., 1:] = back[..., :-1].clone()
        expected = (restated(module, feats) + back) / 2
    heatmaps = torch.stack([field.heatmaps for field in fields])
    torch.testing.assert_close(heatmaps, expected)
    for i, instances in enumerate(keypoints):
        points, scores = module.decoder.decode(expected[i].numpy())
        np.testing.assert_allclose(instances.keypoints, points, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(instances.keypoint_scores, scores, rtol=1e-4)


@pytest.mark.parametrize("codec", [MSRA, UDP], ids=["msra", "udp"])
def test_the_codec_reads_the_keypoints_back_that_it_wrote(head, codec):
    module = head(decoder=codec)
    for sample in samples(module, codec):
        (decoded,) = module.decode(sample.gt_fields.heatmaps[None])
        error = np.abs(decoded.keypoints - sample.gt_instances.keypoints).max()
        assert error < (2.1 if codec is MSRA else 1)  # pixels; MSRA rounds to heatmap cells


@pytest.mark.parametrize("codec", [MSRA, UDP], ids=["msra", "udp"])
def test_training_lowers_the_loss(head, codec):
    module, feats = head(decoder=codec).train(), features()
    batch = samples(module, codec)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        result = module.loss(feats, batch)
        assert set(result) == {"loss_kpt", "acc_pose"}
        optimizer.zero_grad()
        result["loss_kpt"].backward()
        optimizer.step()
        losses.append(result["loss_kpt"].item())
    assert losses[-1] < 0.5 * losses[0]
    assert "acc_pose" not in module.loss(feats, batch, dict(compute_acc=False))


def test_another_heatmap_size_is_refused(head):
    from mmseg_tome.nets.errors import HeatmapSizeError

    module = head(decoder=MSRA).eval()
    feats, batch = features(hw=(33, 24)), samples(module, MSRA)
    message = r"heatmap_size is \(24, 32\) \(w, h\), but the network's heatmaps are \(24, 33\)"
    with pytest.raises(HeatmapSizeError, match=message):
        module.predict(feats, batch)
    with pytest.raises(HeatmapSizeError, match=message):
        module.loss(feats, batch)
    assert head()(feats).shape == (2, K, 33, 24)  # without a codec any size will do


def test_one_level_given_as_a_number_is_refused(head):
    with pytest.raises(ValueError, match=r"in_channels must list .* got 64"):
        head(in_channels=64)


@pytest.mark.parametrize("tome_cfg", [None, "hq"])
def test_the_backbone_is_the_same_under_both_scopes(tome_cfg):
    cfg = dict(
        type="mmseg_tome.MixVisionTransformer", embed_dims=8, num_heads=[1, 2, 5, 8],
        num_layers=[1, 1, 1, 1], drop_path_rate=0.1, tome_cfg=tome_cfg,
    )  # fmt: skip
    image = torch.randn(1, 3, 128, 96)
    found = []
    for scope in ("mmseg", "mmpose"):
        if not compat.has(scope):
            pytest.skip(f"{scope} is not here")
        import importlib

        registry = importlib.import_module(f"{scope}.registry").MODELS
        with DefaultScope.overwrite_default_scope(scope):
            torch.manual_seed(1)
            model = registry.build(dict(cfg))
            model.init_weights()
        found.append(model.eval()(image))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_fusion_is_that_of_the_segmentation_head(head, monkeypatch):
    """One piece of code serves both heads."""
    from mmseg_tome.models import segformer_head, segformer_heatmap_head

    assert segformer_head.fuse_levels is segformer_heatmap_head.fuse_levels
    calls = []
    real = segformer_heatmap_head.fuse_levels
    monkeypatch.setattr(
        segformer_heatmap_head, "fuse_levels", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    module = head()
    module.eval()(features())
    assert calls == [1]
