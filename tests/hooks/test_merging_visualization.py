"""`MergingVisualizationHook`: what it logs, when, and what it leaves alone."""

import json
import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from torch import nn

from mmseg_tome import compat
from mmseg_tome.errors import UserError
from mmseg_tome.hooks import MergingVisualizationHook
from mmseg_tome.registry import HOOKS, MODELS
from mmseg_tome.runtime.graphs import CudaGraphs, install

COLOURS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
LEVELS = dict(in_channels=[8, 16, 40, 64], channels=16, norm_cfg=dict(type="BN"))
CONFIGS = dict(
    mmseg=dict(
        type="mmseg.EncoderDecoder",
        data_preprocessor=dict(type="mmseg.SegDataPreProcessor", **COLOURS),
        decode_head=dict(
            type="mmseg_tome.SegformerHead", in_index=[0, 1, 2, 3], num_classes=5, **LEVELS
        ),
        test_cfg=ConfigDict(mode="slide", crop_size=(64, 64), stride=(32, 32)),
    ),
    mmpose=dict(
        type="mmpose.TopdownPoseEstimator",
        data_preprocessor=dict(type="mmpose.PoseDataPreprocessor", **COLOURS),
        head=dict(type="mmseg_tome.SegformerHeatmapHead", out_channels=5, **LEVELS),
    ),
)


def build(package: str, tome_cfg="hq") -> nn.Module:
    if not compat.has(package):
        pytest.skip(f"needs {package}")
    backbone = dict(
        type="mmseg_tome.MixVisionTransformer", embed_dims=8, num_layers=[1, 1, 2, 1],
        num_heads=[1, 2, 5, 8], tome_cfg=tome_cfg,
    )  # fmt: skip
    with DefaultScope.overwrite_default_scope(package):
        return MODELS.build(dict(backbone=backbone, **CONFIGS[package])).eval()


@pytest.fixture
def runner(tmp_path):
    """A runner's parts that the hook needs, with a visualizer that writes files."""

    def make(model: nn.Module, rank: int = 0, iter: int = 0):
        name = f"of {tmp_path} {id(model)}"
        backends = [dict(type="LocalVisBackend")]
        visualizer = Visualizer(name=name, vis_backends=backends, save_dir=str(tmp_path))
        return SimpleNamespace(model=model, rank=rank, iter=iter, visualizer=visualizer)

    return make


def scalars(folder) -> list[dict]:
    file = folder / "vis_data" / "scalars.json"
    return [json.loads(line) for line in file.open()] if file.exists() else []


def images(folder) -> list[str]:
    return sorted(path.stem for path in (folder / "vis_data").rglob("*.png"))


def test_a_training_logs_its_first_and_every_nth_batch(runner, tmp_path):
    model = build("mmseg").train()
    hook, fake = MergingVisualizationHook(interval=3, stages=[2, 3]), runner(model)
    hook.before_run(fake)
    for fake.iter in range(5):
        hook.before_train_iter(fake, fake.iter)
        hooked = sum(bool(module._forward_hooks) for module in model.modules())
        assert (hooked > 0) == (fake.iter in (0, 3))
        model.backbone(torch.randn(2, 3, 64, 96))
        hook.after_train_iter(fake, fake.iter)
        assert not any(module._forward_hooks for module in model.modules())
    # hq: int(0.6 * 6) of 2x3 keys/values go, int(0.8 * 24) of 4x6 queries.
    kept = {"merging/stage2_kv_kept": 3 / 6, "merging/stage3_q_kept": 5 / 24}
    assert scalars(tmp_path) == [pytest.approx({**kept, "step": step}) for step in (1, 4)]
    assert images(tmp_path) == [
        f"merging_{name}_{step}" for name in ("image", "stage2_kv", "stage3_q") for step in (1, 4)
    ]


@pytest.mark.parametrize("package", CONFIGS)
def test_the_image_is_what_the_network_got_in_colours(package, runner, tmp_path):
    model = build(package)
    hook, fake = MergingVisualizationHook(interval=1), runner(model, iter=100)
    bgr = np.random.default_rng(0).integers(0, 256, (512, 384, 3)).astype(np.uint8)
    preprocessor = model.data_preprocessor
    rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)
    batch = ((rgb - preprocessor.mean) / preprocessor.std)[None]
    hook.before_val_iter(fake, 7)
    with torch.no_grad():
        model.extract_feat(batch)
        model.extract_feat(batch.flip(-1))  # as a flip test does
    hook.after_val_iter(fake, 7)
    assert {"merging_val_image_107", "merging_val_stage4_q_107"} <= set(images(tmp_path))
    assert len(images(tmp_path)) == 5
    (path,) = (tmp_path / "vis_data").rglob("merging_val_stage1_kv_107.png")
    assert cv2.imread(str(path)).shape == (512 + 28, 2 * 384 + 8, 3)
    (path,) = (tmp_path / "vis_data").rglob("merging_val_image_107.png")
    np.testing.assert_array_equal(cv2.imread(str(path)), bgr)
    assert scalars(tmp_path)[0]["merging/val/stage1_kv_kept"] == pytest.approx(77 / 192)
    assert scalars(tmp_path)[0]["step"] == 107


def test_windows_are_logged_as_one_image(runner, tmp_path):
    model = build("mmseg")
    hook, fake = MergingVisualizationHook(), runner(model)
    hook.before_test_iter(fake, 0)
    with torch.no_grad():
        model.inference(torch.randn(1, 3, 64, 128), [dict(ori_shape=(64, 128))])
    hook.after_test_iter(fake, 0)
    (path,) = (tmp_path / "vis_data").rglob("merging_test_image_0.png")
    assert cv2.imread(str(path)).shape == (64, 128, 3)
    assert scalars(tmp_path)[0]["merging/test/stage3_q_kept"] == pytest.approx(4 / 16)


def test_wrappers_are_opened(runner, tmp_path):
    wrapped = nn.Module()
    wrapped.module = build("mmseg")
    hook, fake = MergingVisualizationHook(), runner(wrapped)
    hook.before_run(fake)
    hook.before_test_iter(fake, 0)
    wrapped.module.backbone(torch.randn(1, 3, 64, 64))
    hook.after_test_iter(fake, 0)
    assert len(images(tmp_path)) == 4  # the last stage's 2x2 tokens are less than a cell


@pytest.mark.parametrize(
    ("options", "rank"), [(dict(enabled=False), 0), (dict(), 1)], ids=["switched off", "other rank"]
)
def test_nothing_is_touched(options, rank, runner, tmp_path):
    model = build("mmseg")
    hook, fake = MergingVisualizationHook(interval=1, **options), runner(model, rank)
    hook.before_run(fake)
    hook.before_test_iter(fake, 0)
    assert not any(module._forward_hooks for module in model.modules())
    model.backbone(torch.randn(1, 3, 64, 64))
    hook.after_test_iter(fake, 0)
    assert scalars(tmp_path) == images(tmp_path) == []


def test_an_iteration_that_failed_leaves_no_hooks(runner):
    model = build("mmseg")
    hook, fake = MergingVisualizationHook(interval=2), runner(model)
    hook.before_test_iter(fake, 0)
    hook.before_test_iter(fake, 1)
    assert not any(module._forward_hooks for module in model.modules())
    hook.before_test_iter(fake, 2)
    hook.after_run(fake)
    assert not any(module._forward_hooks for module in model.modules())


class TestWarnings:
    @pytest.fixture
    def warnings(self, monkeypatch):
        """What the hook logs."""
        from mmseg_tome.hooks import merging_visualization

        found = []

        def log(message, logger, level):
            assert level == logging.WARNING
            found.append(message)

        monkeypatch.setattr(merging_visualization, "print_log", log)
        return found

    def test_what_runs_by_graphs_is_looked_into_all_the_same(self, runner, tmp_path, warnings):
        class Replays(CudaGraphs):
            def takes(self, tensors):
                return True

            def inference(self, function, tensors):
                outputs = function(*tensors)
                return lambda given: outputs

        model = build("mmseg")
        install(model.backbone, "inference", patience=0, capture=Replays())
        hook, fake = MergingVisualizationHook(interval=2), runner(model)
        hook.before_run(fake)
        for batch in range(4):
            hook.before_test_iter(fake, batch)
            with torch.no_grad():
                model.backbone(torch.randn(1, 3, 64, 64))
            hook.after_test_iter(fake, batch)
        assert not warnings
        assert len(scalars(tmp_path)) == 2
        assert model.backbone.forward.captured == [True]  # the other batches

    def test_a_model_that_merges_nothing(self, runner, tmp_path, warnings):
        model = build("mmseg", tome_cfg=None)
        hook, fake = MergingVisualizationHook(interval=1), runner(model)
        hook.before_run(fake)
        for batch in range(2):
            hook.before_test_iter(fake, batch)
            model.backbone(torch.randn(1, 3, 64, 64))
            hook.after_test_iter(fake, batch)
        assert len(warnings) == 1
        assert "nothing merges: see tome_cfg" in warnings[0]
        assert images(tmp_path) == []


def test_what_it_cannot_look_into_is_refused(runner):
    other = nn.Module()
    other.backbone = nn.Linear(1, 1)
    with pytest.raises(UserError, match="MergingVisualizationHook: Linear merges no tokens"):
        MergingVisualizationHook().before_run(SimpleNamespace(model=other))
    MergingVisualizationHook(enabled=False).before_run(SimpleNamespace(model=other))
    model = SimpleNamespace(model=build("mmseg"))
    with pytest.raises(UserError, match="no stage 5"):
        MergingVisualizationHook(stages=[5]).before_run(model)
    with pytest.raises(UserError, match="no block 2 in stage 1"):
        MergingVisualizationHook(block=2).before_run(model)
    with pytest.raises(ValueError, match="at least 1"):
        MergingVisualizationHook(interval=0)


def test_configs_reach_it():
    assert isinstance(
        HOOKS.build(dict(type="mmseg_tome.MergingVisualizationHook")), MergingVisualizationHook
    )
