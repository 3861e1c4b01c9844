"""The hook in runners: what is decided once is kept, shared and repeated."""

import copy
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmengine")

from mmseg_tome import compat  # isort: skip
from mmseg_tome.hooks import auto_merging  # isort: skip
from mmseg_tome.runtime import calibration  # isort: skip
from mmseg_tome.runtime.merging_switch import merging_backbone, set_merging  # isort: skip

pytestmark = [
    pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg"),
    pytest.mark.usefixtures("on_cpu"),
]

WHOLE = dict(mode="whole")
SLIDE = dict(mode="slide", crop_size=(64, 64), stride=(48, 48))
CROP = (64, 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of images and labels of different sizes."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i, hw in enumerate([(64, 96), (80, 72), (96, 64), (72, 80)]):
        cv2.imwrite(str(folder / f"images/{i}.png"), rng.integers(0, 256, (*hw, 3), np.uint8))
        cv2.imwrite(str(folder / f"labels/{i}.png"), rng.integers(0, 5, hw, np.uint8))
    return folder


def config(data, work_dir, tome_cfg="hq-auto", test_cfg=WHOLE, tta=False, **more):
    from mmengine.config import Config

    sizes = dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 4, 4))
    test = [dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
    if tta:
        flips = [dict(type="RandomFlip", prob=p) for p in (0.0, 1.0)]
        transforms = [flips, *([step] for step in test)]
        test = [dict(type="TestTimeAug", transforms=transforms)]
    train = [
        dict(type="LoadAnnotations"),
        dict(type="RandomCrop", crop_size=CROP),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackSegInputs"),
    ]

    def loader(steps, sampler, batch_size=1) -> dict:
        return dict(
            batch_size=batch_size,
            dataset=dict(
                type="BaseSegDataset",
                metainfo=dict(classes=list("abcde")),
                data_root=str(data),
                data_prefix=dict(img_path="images", seg_map_path="labels"),
                img_suffix=".png",
                seg_map_suffix=".png",
                pipeline=[dict(type="LoadImageFromFile"), *steps],
            ),
            sampler=sampler,
        )

    in_order = dict(type="DefaultSampler", shuffle=False)
    cfg = Config(
        dict(
            default_scope="mmseg",
            work_dir=str(work_dir),
            log_level="INFO",
            custom_hooks=[dict(type="mmseg_tome.AutoMergingHook")],
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2)),
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=0),
            model=dict(
                type="EncoderDecoder",
                data_preprocessor=dict(
                    type="SegDataPreProcessor", mean=[128] * 3, std=[64] * 3, size=CROP
                ),
                backbone=dict(type="mmseg_tome.MixVisionTransformer", tome_cfg=tome_cfg, **sizes),
                decode_head=dict(
                    type="SegformerHead", in_channels=[8, 16, 32, 32], in_index=[0, 1, 2, 3],
                    channels=16, num_classes=5, norm_cfg=dict(type="BN"), align_corners=False,
                ),
                test_cfg=test_cfg,
            ),
            train_dataloader=loader(train, dict(type="InfiniteSampler", shuffle=True), 2),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=2, val_interval=1),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01)),
            val_dataloader=loader(test, in_order),
            val_cfg=dict(),
            val_evaluator=dict(type="IoUMetric"),
            test_dataloader=loader(test, in_order),
            test_cfg=dict(),
            test_evaluator=dict(type="IoUMetric"),
            **more,
        )
    )  # fmt: skip
    if tta:
        cfg.model = dict(type="SegTTAModel", module=cfg.model)
    return cfg


@pytest.fixture
def runner(data, tmp_path):
    def build(work_dir="work", **options):
        from mmengine.runner import Runner

        return Runner.from_cfg(config(data, tmp_path / work_dir, **options))

    return build


@pytest.fixture
def timings(monkeypatch):
    """Makes up times; keeps how stages were timed: the batch, the tokens, whether in training."""
    found = []

    def stage_seconds(blocks, inputs, merging, training, graphs):
        found.append((*inputs.x.shape[:2], training, merging != calibration.NO_MERGING))
        return next(stage_seconds.times)

    # Stages 1 and 3 merge.
    stage_seconds.times = iter([2.0, 1.0, 1.0, 1.0] * 50)
    monkeypatch.setattr(calibration, "stage_seconds", stage_seconds)
    return found


@pytest.fixture
def said(monkeypatch):
    """What was logged."""
    lines = []
    for module in (calibration, auto_merging):
        monkeypatch.setattr(module, "print_log", lambda message, *_: lines.append(message))
    return lines


def stages(runner) -> list[bool] | None:
    return merging_backbone(runner.model).merging_stages


DECIDED = [True, False, True, False]


def test_a_test_decides_once_on_its_own_windows(runner, timings, said, tmp_path):
    first = runner(test_cfg=SLIDE)
    first.test()
    assert stages(first) == DECIDED
    # The first image is 64 x 96, a window 64 x 64.
    assert [t[:3] for t in timings] == [(1, n, False) for n in (256, 64, 16, 4) for _ in range(2)]
    assert len(said) == 1
    assert said[0].startswith("auto merging for 1 x 64x64 in float32 on cpu: stage 1 merges")
    second = runner(test_cfg=SLIDE)
    second.test()
    assert stages(second) == DECIDED
    assert len(timings) == 8
    assert said[1] == f"{said[0]}; decided before, in {tmp_path / 'work' / 'auto_merging.json'}"
    third = runner()  # whole images: another kind
    third.test()
    assert len(timings) == 16
    assert timings[8][:2] == (1, 16 * 24)
    text = (tmp_path / "work" / "auto_merging.json").read_text()
    assert [entry["kind"]["size"] for entry in json.loads(text)] == [[64, 64], [64, 96]]


def test_test_time_augmentation_and_autocast(runner, timings):
    model = runner(tta=True)
    model.test_loop.fp16 = True
    model.test()
    assert stages(model) == DECIDED
    assert timings[0][:2] == (1, 16 * 24)


def test_a_training_decides_for_its_validations_and_when_resumed(runner, timings, said, tmp_path):
    first = runner()
    first.train()
    assert stages(first) == DECIDED
    assert [t[:3] for t in timings] == [(2, n, True) for n in (256, 64, 16, 4) for _ in range(2)]
    checkpoint = torch.load(tmp_path / "work" / "iter_2.pth", weights_only=False)
    (entry,) = checkpoint["meta"]["auto_merging"]
    assert [stage["merges"] for stage in entry["stages"]] == DECIDED
    assert entry["kind"]["mode"] == "training"
    # Elsewhere, without the file: by the checkpoint.
    second = runner(work_dir="other", load_from=str(tmp_path / "work" / "iter_2.pth"), resume=True)
    second._train_loop["max_iters"] = 4
    second.train()
    assert len(timings) == 8
    assert stages(second) == DECIDED
    assert said[-1].endswith("; decided before, in the checkpoint")
    checkpoint = torch.load(tmp_path / "other" / "iter_4.pth", weights_only=False)
    assert checkpoint["meta"]["auto_merging"] == [entry]
    # Weights that are only loaded decide nothing.
    third = runner(work_dir="third", load_from=str(tmp_path / "work" / "iter_2.pth"))
    third.train()
    assert len(timings) == 16
    # And a test after the training is another kind of run.
    third.test()
    assert len(timings) == 24


def test_the_checkpoint_is_read_without_running_code(runner, timings, tmp_path):
    from mmseg_tome.checkpoints.loading import load_from_local

    runner().train()
    checkpoint = load_from_local(str(tmp_path / "work" / "iter_2.pth"))
    found = calibration.Calibration.from_plain(checkpoint["meta"]["auto_merging"][0])
    assert [stage.merges for stage in found.stages] == DECIDED


@pytest.mark.parametrize("content", ["", "{", "3", '[{"kind": {}}]', "[[]]"])
def test_a_damaged_file_is_replaced(runner, timings, said, tmp_path, content):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "auto_merging.json").write_text(content)
    runner().test()
    assert len(timings) == 8
    assert "auto_merging.json" in said[0]
    assert len(json.loads((tmp_path / "work" / "auto_merging.json").read_text())) == 1


def test_nothing_else_changes(runner, timings, said, monkeypatch):
    """Not the random numbers of a training, not its batches: as without the hook."""
    weights = []
    for tome_cfg, undone in (("hq-auto", True), ("hq", False)):
        model = runner(work_dir=tome_cfg, tome_cfg=tome_cfg)
        if undone:  # decided, and then merged as the preset says
            monkeypatch.setattr(auto_merging, "obey", lambda *_: None)
            monkeypatch.setattr(calibration, "obey", lambda *_: None)
        model.train()
        weights.append(copy.deepcopy(model.model.state_dict()))
        weights.append([random.random(), np.random.rand(), torch.rand(1).item()])
    assert timings
    assert weights[1] == weights[3]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[2][key]), key


def test_models_that_ask_for_nothing_are_not_timed(runner, timings, said):
    runner(tome_cfg="hq").test()
    runner(tome_cfg=None).train()
    stock = runner()
    stock.model.backbone = torch.nn.Identity()
    stock._hooks[:] = [h for h in stock._hooks if isinstance(h, auto_merging.AutoMergingHook)]
    stock._hooks[0]._before_iter(stock, 0, {}, "test")
    assert not timings
    assert not said


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("mode", ["test", "train"])
def test_advice(runner, timings, said, monkeypatch, wanted, mode):
    def stage_seconds(blocks, inputs, merging, training, graphs):
        timings.append((inputs.x.shape[0], training))
        return 1.0 if merging == calibration.NO_MERGING else 3.0

    monkeypatch.setattr(calibration, "stage_seconds", stage_seconds)
    # On a CPU as on a GPU.
    monkeypatch.setattr(auto_merging.AutoMergingHook, "_may_advise", lambda hook, *_: hook.advise)
    model = runner(tome_cfg="hq", test_cfg=SLIDE)
    (hook,) = (h for h in model._hooks if isinstance(h, auto_merging.AutoMergingHook))
    hook.advise = wanted
    getattr(model, mode)()
    assert stages(model) is None
    if not wanted:
        assert not said
        return
    (line,) = said
    batch = 2 if mode == "train" else 1
    assert set(timings) == {(batch, mode == "train")}
    assert line.startswith(
        f"hq merging is slower than no merging for {batch} x 64x64 in float32 on cpu"
    )


@pytest.mark.parametrize("tome_cfg", ["hq", "hq-auto"])
def test_a_batch_that_does_not_fit_is_halved(runner, timings, said, monkeypatch, tome_cfg):
    batches = []

    def stage_seconds(blocks, inputs, merging, training, graphs):
        batches.append(inputs.x.shape[0])
        if batches[-1] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return 1.0 if merging == calibration.NO_MERGING else 3.0

    monkeypatch.setattr(calibration, "stage_seconds", stage_seconds)
    monkeypatch.setattr(auto_merging.AutoMergingHook, "_may_advise", lambda *_: True)
    model = runner(
        tome_cfg=tome_cfg, test_cfg=dict(mode="slide", crop_size=(32, 32), stride=(32, 32))
    )
    images = torch.zeros(5, 3, 64, 64)
    monkeypatch.setattr(auto_merging, "_images", lambda *_: images)
    model.test()
    assert batches[0] == 5
    assert set(batches[1:]) == {2}
    assert " 2 x 64x64 in float32 on cpu" in said[0]


def test_a_cpu_gets_no_advice(runner, said, timings):
    model = runner(tome_cfg="hq")
    model.test()
    assert not said


def process(rank: int, data: str, work_dir: str) -> None:
    """Train, then test on one sample: process 1 has none."""
    from mmengine.runner import Runner

    from mmseg_tome.cli.running import adapt_to_cpu

    # Process 1 is not asked.
    times = iter([2.0, 1.0, 1.0, 1.0] * 4 if rank == 0 else [])
    calibration.stage_seconds = lambda *_: next(times)
    cfg = config(Path(data), work_dir)
    cfg.launcher = "pytorch"
    cfg.test_dataloader.dataset.indices = 1
    cfg.test_dataloader.sampler.round_up = False
    adapt_to_cpu(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    found = [stages(runner)]
    set_merging(runner.model, "hq-auto")
    runner.test()
    Path(work_dir, f"{rank}.json").write_text(json.dumps([*found, stages(runner)]))
    torch.distributed.destroy_process_group()


def test_process_0_decides_for_all(data, tmp_path, repo):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE="2", OMP_NUM_THREADS="1")
    on_cpu = dict(CUDA_VISIBLE_DEVICES="")
    environment = {**os.environ, **together, **on_cpu, "PYTHONPATH": str(repo)}
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(data), str(work_dir)],
            env=environment | dict(RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [each.communicate(timeout=300)[0] for each in processes]
    finally:
        for each in processes:
            each.kill()
    for each, output in zip(processes, outputs, strict=True):
        assert each.returncode == 0, output[-3000:]
    for rank in (0, 1):
        assert json.loads((work_dir / f"{rank}.json").read_text()) == [DECIDED] * 2
    kept = json.loads((work_dir / "auto_merging.json").read_text())
    assert [entry["kind"]["mode"] for entry in kept] == ["training", "inference"]


def test_merging_that_is_set_anew_is_decided_anew(runner, timings):
    model = runner()
    model.test()
    set_merging(model.model, "n2d-auto")
    assert stages(model) is None
    model.test()
    assert len(timings) == 16


if __name__ == "__main__":
    process(int(sys.argv[1]), *sys.argv[2:])
