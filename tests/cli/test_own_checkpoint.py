"""A checkpoint that train.py wrote goes through every tool, whatever hooks and metainfo added."""

import json

import pytest

from mmseg_tome import compat

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

CONFIG = """
_base_ = {base!r}
metainfo = dict(camera=dict(name="left", sizes=[(128, 96)], lens=dict(f=2.0)), links=set())
data = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root={data!r},
        metainfo=metainfo,
        data_prefix=dict(img_path="images/val", seg_map_path="labels/val"),
    ),
)
train_dataloader = dict(**data, batch_size=2)
val_dataloader = test_dataloader = data
train_dataloader["dataset"]["pipeline"] = val_dataloader["dataset"]["pipeline"] = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
model = dict(data_preprocessor=dict(size=(96, 128)))
param_scheduler = [
    dict(type="OneCycleLR", eta_max=0.01, total_steps=9, by_epoch=False),
    dict(type="MultiStepMomentum", milestones=[1], by_epoch=False),
    dict(type="CosineRestartLR", periods=[9], eta_min=0.0, by_epoch=False),
]
optim_wrapper = dict(_delete_=True, type="AmpOptimWrapper", optimizer=dict(type="SGD", lr=0.01))
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage")]
default_hooks = dict(
    checkpoint=dict(interval=1, save_best="mIoU", by_epoch=False), logger=dict(interval=1)
)
train_cfg = dict(max_iters=2, val_interval=2)
"""


def test_train_test_resume_infer_export(write_segmentor, run_tool, tmp_path):
    write_segmentor(tmp_path, "n2d", "ab")
    base = str(tmp_path / "tiny.py")
    config = tmp_path / "own.py"
    config.write_text(CONFIG.format(base=base, data=str(tmp_path / "data")))
    work = tmp_path / "work"
    run_tool("train.py", config, "--work-dir", work)
    more = ("--cfg-options", "train_cfg.max_iters=3", "train_cfg.val_interval=3")
    out = run_tool("train.py", config, "--work-dir", work, "--resume", *more)
    assert "resumed epoch: 0, iter: 2" in out
    own = work / "iter_3.pth"
    run_tool("test.py", config, own, "--work-dir", tmp_path / "tested")
    scores = json.loads(max((tmp_path / "tested").glob("2*/2*.json")).read_text())
    assert "mIoU" in scores
    images = tmp_path / "data" / "images"
    arguments = ("--config", config, "--checkpoint", own)
    run_tool("infer.py", images, *arguments, "--out", tmp_path / "out")
    assert len(json.loads((tmp_path / "out/results.json").read_text())["images"]) == 2
    run_tool("export.py", "--config", config, "--checkpoint", own, "--out", tmp_path / "own.onnx")
    assert (tmp_path / "own.onnx").is_file()


@pytest.mark.slow
def test_joined_test_data_is_tested_and_exported(
    write_segmentor, run_tool, join_test_data, tmp_path
):
    write_segmentor(tmp_path, "n2d", "ab")
    config = join_test_data(tmp_path / "tiny.py", tmp_path / "joined.py")
    data = [
        f"test_dataloader.dataset.datasets.{i}.{option}"
        for i in (0, 1)
        for option in ("pipeline.1.scale=(128,96)",)
    ]
    options = ("--cfg-options", *data, "test_dataloader.num_workers=0")
    options = (*options, "test_dataloader.persistent_workers=False")
    run_tool("test.py", config, tmp_path / "0.pth", "--work-dir", tmp_path / "tested", *options)
    own = ("--config", config, "--checkpoint", tmp_path / "0.pth")
    run_tool("export.py", *own, "--out", tmp_path / "a.pt2", "--format", "torch-export", *options)
    images = tmp_path / "data/images/val"
    run_tool("infer.py", images, "--model", tmp_path / "a.pt2", "--out", tmp_path / "out")
    assert len(json.loads((tmp_path / "out/results.json").read_text())["images"]) == 2
