"""The hook and its metric in a runner, on images without labels."""

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

METRIC = dict(type="mmseg_tome.AgreementMetric")
HOOK = dict(type="mmseg_tome.UnmergedReferenceHook")
WHOLE = dict(mode="whole")
SLIDE = dict(mode="slide", crop_size=(64, 64), stride=(48, 48))
FLIPS = [[dict(type="RandomFlip", prob=p) for p in (0.0, 1.0)], [dict(type="PackSegInputs")]]


@pytest.fixture
def images(tmp_path):
    """A folder of images of different sizes, and nothing else."""
    rng = np.random.default_rng(0)
    for i, hw in enumerate([(64, 96), (80, 72), (96, 64)]):
        coarse = rng.integers(0, 256, (hw[0] // 8, hw[1] // 8, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), cv2.resize(coarse, hw[::-1]))
    return tmp_path


@pytest.fixture
def runner(images, tmp_path):
    """Build a runner that tests a model of fixed random weights on these images."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    def build(tome_cfg="fast", test_cfg=WHOLE, evaluator=METRIC, hooks=(HOOK,), tta=False, **loop):
        augment = [dict(type="TestTimeAug", transforms=FLIPS)] if tta else FLIPS[1]
        sizes = dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 4, 4))
        cfg = Config(
            dict(
                default_scope="mmseg",
                work_dir=str(tmp_path / "work"),
                log_level="ERROR",
                custom_hooks=list(hooks),
                randomness=dict(seed=0),
                model=dict(
                    type="EncoderDecoder",
                    data_preprocessor=dict(
                        type="SegDataPreProcessor", mean=[128] * 3, std=[64] * 3, size=(96, 96)
                    ),
                    backbone=dict(
                        type="mmseg_tome.MixVisionTransformer", tome_cfg=tome_cfg, **sizes
                    ),
                    decode_head=dict(
                        type="SegformerHead", in_channels=[8, 16, 32, 32],
                        in_index=[0, 1, 2, 3], channels=16, num_classes=5,
                        norm_cfg=dict(type="BN"), align_corners=False, dropout_ratio=0.0,
                    ),
                    test_cfg=test_cfg,
                ),
                test_dataloader=dict(
                    batch_size=1,
                    dataset=dict(
                        type="BaseSegDataset",
                        metainfo=dict(classes=list("abcde")),
                        data_prefix=dict(img_path=str(images)),
                        img_suffix=".png",
                        test_mode=True,
                        pipeline=[dict(type="LoadImageFromFile"), *augment],
                    ),
                    sampler=dict(type="DefaultSampler", shuffle=False),
                ),
                test_cfg=loop,
                test_evaluator=evaluator,
            )
        )  # fmt: skip
        if tta:
            cfg.model = dict(type="SegTTAModel", module=cfg.model)
        runner = Runner.from_cfg(cfg)
        generator = torch.Generator().manual_seed(0)
        for parameter in runner.model.parameters():
            if parameter.dim() > 1:  # large, so that merging shows
                values = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(0.3 * values)
        return runner

    return build


@torch.no_grad()
def predictions(runner) -> list:
    runner.model.eval()
    return [runner.model.test_step(batch)[0] for batch in runner.test_dataloader]


@pytest.mark.parametrize("test_cfg", [WHOLE, SLIDE])
def test_the_agreement_of_two_models(runner, test_cfg):
    """As if the models had been run one after the other by hand."""
    merged = predictions(runner(test_cfg=test_cfg))
    unmerged = predictions(runner(tome_cfg=None, test_cfg=test_cfg))
    same = pixels = divergence = 0
    for ours, reference in zip(merged, unmerged, strict=True):
        same += (ours.pred_sem_seg.data == reference.pred_sem_seg.data).sum().item()
        pixels += ours.pred_sem_seg.data.numel()
        log_p, log_q = (x.seg_logits.data.double().log_softmax(0) for x in (reference, ours))
        divergence += (log_p.exp() * (log_p - log_q)).sum().item()
    metrics = runner(test_cfg=test_cfg).test()
    assert metrics["agreement.pixels"] == pytest.approx(100 * same / pixels, abs=0.006)
    assert metrics["agreement.KL"] == pytest.approx(divergence / pixels, rel=1e-3, abs=2e-6)
    assert 0 < metrics["agreement.pixels"] < 100
    assert 0 < metrics["agreement.mIoU"] < 100
    assert metrics["agreement.KL"] > 0


def test_the_predictions_that_others_see_are_the_merged_ones(runner):
    from mmengine.hooks import Hook

    expected, seen = predictions(runner()), []

    class Look(Hook):
        def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            seen.extend(outputs)

    testing = runner()
    testing.register_hook(Look())
    testing.test()
    for ours, given in zip(expected, seen, strict=True):
        assert torch.equal(ours.seg_logits.data, given.seg_logits.data)


def test_augmentation_and_autocast(runner):
    plain = runner().test()
    for options in (dict(tta=True), dict(fp16=True)):
        metrics = runner(**options).test()
        assert 0 < metrics["agreement.pixels"] < 100
        assert metrics["agreement.KL"] != plain["agreement.KL"]
        # The reference is computed in the same way: what differs is what merging changes.
        assert metrics["agreement.KL"] == pytest.approx(plain["agreement.KL"], rel=0.5)


def test_with_fast_inference_in_any_order(runner):
    fast = dict(type="mmseg_tome.FastInferenceHook")
    expected = pytest.approx(runner().test(), rel=1e-3)
    assert runner(hooks=[fast, HOOK]).test() == expected
    assert runner(hooks=[HOOK, fast]).test() == expected


def test_a_missing_hook_and_a_missing_metric(runner):
    from mmseg_tome.errors import UserError

    with pytest.raises(UserError, match="AgreementMetric has no unmerged reference"):
        runner(hooks=[]).test()
    other = dict(type="IoUMetric", format_only=True, output_dir=None)
    with pytest.raises(UserError, match="to test_evaluator, or leave the hook out"):
        runner(evaluator=other).test()


def test_a_model_that_does_not_merge(runner):
    from mmseg_tome.errors import UserError

    with pytest.raises(UserError, match="UnmergedReferenceHook: the backbone merges nothing"):
        runner(tome_cfg=None).test()
