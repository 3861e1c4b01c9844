"""The flip test as one batch gives what MMPose's estimator gives, with any of MMPose's heads."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmseg_tome import compat

pytestmark = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")

K = 5
SIZE, HEATMAP = (64, 96), (16, 24)
CHANNELS = [8, 16, 40, 64]
MSRA, UDP, MEGVII = (
    dict(type=f"{name}Heatmap", input_size=SIZE, heatmap_size=HEATMAP)
    for name in ("MSRA", "UDP", "Megvii")
)
MSRA["sigma"] = UDP["sigma"] = 2
MEGVII["kernel_size"] = 5
BACKBONE = dict(
    type="mmseg_tome.MixVisionTransformer", embed_dims=8, num_heads=[1, 2, 5, 8],
    num_layers=[1, 1, 1, 1], tome_cfg="n2d",
)  # fmt: skip
OURS = dict(type="mmseg_tome.SegformerHeatmapHead", in_channels=CHANNELS, channels=12)
MSPN = dict(num_stages=2, num_units=2, unit_channels=16)
POOLED = dict(type="GlobalAveragePooling")
REGRESSION = dict(type="RegressionLabel", input_size=SIZE)
SIMCC = dict(type="SimCCLabel", input_size=SIZE, sigma=6.0, simcc_split_ratio=2.0)
PLACES = dict(in_channels=64, input_size=SIZE, in_featuremap_size=(2, 3), simcc_split_ratio=2.0)
HEADS = dict(
    ours=dict(head=OURS | dict(decoder=MSRA)),
    ours_udp=dict(head=OURS | dict(decoder=UDP)),
    ours_dark=dict(head=OURS | dict(decoder=MSRA | dict(unbiased=True, blur_kernel_size=5))),
    stock=dict(
        head=dict(
            type="HeatmapHead", in_channels=64, deconv_out_channels=(16, 16, 16), decoder=MSRA
        )
    ),
    neck=dict(
        neck=dict(type="FeatureMapProcessor", concat=True),
        head=dict(
            type="HeatmapHead", in_channels=sum(CHANNELS), deconv_out_channels=(), decoder=MSRA,
            deconv_kernel_sizes=(),
        ),
    ),
    multi_stage=dict(
        backbone=dict(type="MSPN", num_blocks=[1, 1], res_top_channels=64, **MSPN),
        head=dict(
            type="MSPNHead", out_shape=HEATMAP[::-1], level_indices=[0, 1] * 2, decoder=MEGVII,
            loss=[dict(type="KeypointMSELoss")] * 4, **MSPN,
        ),
    ),
    rle=dict(
        neck=POOLED, head=dict(type="RLEHead", in_channels=64, num_joints=K, decoder=REGRESSION)
    ),
    simcc=dict(
        head=dict(type="SimCCHead", deconv_out_channels=None, decoder=SIMCC, **PLACES),
    ),
    rtmcc=dict(
        head=dict(
            type="RTMCCHead", decoder=SIMCC, **PLACES,
            gau_cfg=dict(
                hidden_dims=32, s=16, expansion_factor=2, dropout_rate=0.0, drop_path=0.0,
                act_fn="SiLU", use_rel_bias=False, pos_enc=False,
            ),
        ),
    ),
    visibility=dict(
        head=dict(
            type="VisPredictHead",
            pose_cfg=dict(
                type="HeatmapHead", in_channels=64, out_channels=K, decoder=MSRA,
                deconv_out_channels=(16, 16, 16),
            ),
        ),
    ),
)  # fmt: skip
FLIP = dict(flip_test=True, flip_mode="heatmap")


@pytest.fixture
def pair():
    """Our estimator and MMPose's with the same weights, in eval mode, each counting its passes."""

    def build(name, test_cfg=FLIP):
        from mmpose.registry import MODELS

        cfg = dict(backbone=BACKBONE, test_cfg=test_cfg) | deepcopy(HEADS[name])
        if name not in ("rle", "visibility"):
            cfg["head"]["out_channels"] = K
        models = []
        with DefaultScope.overwrite_default_scope("mmpose"):
            for scope in ("mmseg_tome", "mmpose"):
                models.append(MODELS.build(dict(type=f"{scope}.TopdownPoseEstimator", **cfg)))
        ours, stock = models
        with torch.no_grad():
            for weight in stock.parameters():  # keypoints that differ from each other
                weight.normal_(std=0.2)
        ours.load_state_dict(stock.state_dict())
        for model in models:
            model.eval()
            model.passes = []
            model.backbone.register_forward_pre_hook(
                lambda module, args, passes=model.passes: passes.append(len(args[0]))
            )
        return ours, stock

    return build


@pytest.fixture
def like_a_gpu(monkeypatch):
    """What happens on a GPU, on whatever is here."""
    from mmseg_tome.models import segformer_heatmap_head, topdown

    for module in (topdown, segformer_heatmap_head):
        monkeypatch.setattr(module, "on_gpu", lambda x: True)


def samples(batch=3):
    from mmengine.structures import InstanceData
    from mmpose.structures import PoseDataSample

    def one(i):
        sample = PoseDataSample(
            metainfo=dict(
                flip_indices=[0, 2, 1, 4, 3],
                input_size=SIZE,
                input_center=np.array([48.0 + i, 64.0]),
                input_scale=np.array([96.0, 128.0 + i]),
            )
        )
        boxes = dict(bboxes=np.ones((1, 4), np.float32), bbox_scores=np.ones(1, np.float32))
        sample.gt_instances = InstanceData(**boxes)
        return sample

    return [one(i) for i in range(batch)]


def images(batch=3):
    return torch.randn(batch, 3, *SIZE[::-1])


def predict(model, inputs):
    with torch.no_grad():
        return model(inputs, samples(len(inputs)), mode="predict")


def compare(ours, stock, rtol, atol=0.0):
    assert len(ours) == len(stock)
    for a, b in zip(ours, stock, strict=True):
        assert set(a.all_keys()) == set(b.all_keys())
        assert set(a.pred_instances.keys()) == set(b.pred_instances.keys())
        for key, value in b.pred_instances.items():
            found = a.pred_instances[key]
            assert (type(found), found.shape) == (type(value), value.shape)
            assert found.dtype == value.dtype
            np.testing.assert_allclose(found, value, rtol=rtol, atol=atol)
        if "pred_fields" in b:
            heatmaps = a.pred_fields.heatmaps, b.pred_fields.heatmaps
            torch.testing.assert_close(*heatmaps, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("more", [{}, dict(shift_heatmap=True, shift_coords=True)], ids=str)
def test_one_batch_gives_what_two_passes_give(pair, like_a_gpu, name, more):
    ours, stock = pair(name, FLIP | more)
    inputs = images()
    found, expected = predict(ours, inputs), predict(stock, inputs)
    compare(found, expected, rtol=1e-4, atol=1e-4)
    assert (ours.passes, stock.passes) == ([6], [3, 3])
    points = np.stack([sample.pred_instances.keypoints for sample in expected])
    assert np.ptp(points.reshape(-1, 2), axis=0).min() > 0  # not all at one place


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", HEADS)
def test_one_batch_on_a_gpu(pair, name, monkeypatch):
    for settings in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(settings, "allow_tf32", False)
    ours, stock = (model.cuda() for model in pair(name))
    inputs = images().cuda()
    compare(predict(ours, inputs), predict(stock, inputs), rtol=1e-3, atol=1e-3)
    assert (ours.passes, stock.passes) == ([6], [3, 3])


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("flip", [True, False])
def test_on_a_cpu_the_stock_code_runs(pair, name, flip):
    ours, stock = pair(name, dict(FLIP, flip_test=flip))
    inputs = images()
    compare(predict(ours, inputs), predict(stock, inputs), rtol=0)
    assert ours.passes == stock.passes == ([3, 3] if flip else [3])


def test_without_a_flip_test_there_is_one_pass(pair, like_a_gpu):
    ours, stock = pair("ours", dict(flip_test=False))
    inputs = images()
    compare(predict(ours, inputs), predict(stock, inputs), rtol=1e-5)
    assert ours.passes == [3]


@pytest.mark.parametrize("name", ["ours", "ours_udp", "stock", "multi_stage"])
def test_heatmaps_and_some_keypoints_where_asked_for(pair, like_a_gpu, name):
    test_cfg = FLIP | dict(output_heatmaps=True, output_keypoint_indices=[3, 1])
    ours, stock = pair(name, test_cfg)
    inputs = images()
    found = predict(ours, inputs)
    compare(found, predict(stock, inputs), rtol=1e-4, atol=1e-4)
    assert found[0].pred_fields.heatmaps.shape == (2, *HEATMAP[::-1])
    assert found[0].pred_instances.keypoints.shape == (1, 2, 2)


def test_our_head_runs_once_and_its_decoding_too(pair, like_a_gpu, monkeypatch):
    from mmseg_tome.models import segformer_heatmap_head

    ours, _ = pair("ours")
    calls, decoded = [], []
    ours.head.register_forward_pre_hook(lambda module, args: calls.append(1))
    forward = ours.head.forward
    ours.head.forward = lambda feats: calls.append(len(feats[0])) or forward(feats)
    real = segformer_heatmap_head.decode_heatmaps
    monkeypatch.setattr(
        segformer_heatmap_head, "decode_heatmaps", lambda *a: decoded.append(1) or real(*a)
    )
    predict(ours, images())
    assert (calls, decoded) == ([6], [1])


def test_another_heatmap_size_is_refused(pair, like_a_gpu):
    from mmseg_tome.nets.errors import HeatmapSizeError

    ours, _ = pair("ours")
    with pytest.raises(HeatmapSizeError, match="heatmap_size is"):
        predict(ours, torch.randn(2, 3, 96, 96))


def test_the_network_alone_and_its_loss_are_mmposes(pair, like_a_gpu):
    ours, stock = pair("ours")
    inputs = images()
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs, None), stock(inputs, None), rtol=0, atol=0)
    assert type(ours).loss is type(stock).loss
    assert isinstance(ours, type(stock))


@pytest.mark.parametrize("part", ["backbone", "head"])
def test_a_batch_too_large_for_the_memory_takes_two_passes(pair, like_a_gpu, part):
    ours, stock = pair("ours")
    forward = getattr(ours, part).forward

    def small(x):
        if len(x if part == "backbone" else x[0]) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    getattr(ours, part).forward = small
    for batch in (3, 4, 2):  # 6 do not fit; 8 are not tried; 4 fit
        inputs = images(batch)
        compare(predict(ours, inputs), predict(stock, inputs), rtol=1e-4, atol=1e-4)
    assert ours.passes == [6, 3, 3, 4, 4, 4]
    assert ours.too_many == 3


def test_boxes_of_an_image_go_through_mmposes_inference_as_one_batch(repo, like_a_gpu, monkeypatch):
    """As `tools/infer.py` runs it: `inference_topdown`, and the flip test of the config."""
    from mmengine.config import Config
    from mmpose.apis import inference_topdown, init_model
    from mmpose.models import TopdownPoseEstimator

    cfg = Config.fromfile(
        str(repo / "configs" / "b0" / "segformerpp_b0_none_coco.py"), import_custom_modules=False
    )
    cfg.model.type = "mmseg_tome.TopdownPoseEstimator"
    cfg.model.backbone.init_cfg = None
    size, heatmap = (96, 128), (24, 32)
    cfg.test_dataloader.dataset.pipeline[2].input_size = size
    cfg.model.head.decoder.update(input_size=size, heatmap_size=heatmap)
    model = init_model(cfg, device="cpu")
    assert isinstance(model, TopdownPoseEstimator)
    passes = []
    model.backbone.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    boxes = np.array([[0, 0, 60, 90], [20, 10, 100, 120], [5, 5, 50, 50]], np.float32)
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    found = inference_topdown(model, image, boxes)
    assert passes == [6]
    assert [sample.pred_instances.keypoints.shape for sample in found] == [(1, 17, 2)] * 3
