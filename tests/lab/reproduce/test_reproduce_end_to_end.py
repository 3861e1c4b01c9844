"""A row through the real tools, with a tiny model on tiny images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmseg")


from mmseg_tome.cli import reproduce

TINY = (
    "model.backbone.embed_dims=8",
    "model.backbone.num_layers=1,1,1,1",
    "model.backbone.init_cfg=None",
    "model.decode_head.in_channels=8,16,40,64",
    "model.decode_head.channels=16",
    "model.data_preprocessor.size=(64,64)",
    "model.test_cfg.crop_size=(64,64)",
    "model.test_cfg.stride=(64,64)",
    "train_dataloader.dataset.pipeline.2.scale=(128,64)",
    "train_dataloader.dataset.pipeline.3.crop_size=(64,64)",
    "val_dataloader.dataset.pipeline.1.scale=(128,64)",
    "test_dataloader.dataset.pipeline.1.scale=(128,64)",
    *(
        f"{stage}_dataloader.{option}"
        for stage in ("train", "val", "test")
        for option in ("num_workers=0", "persistent_workers=False")
    ),
    "train_dataloader.batch_size=2",
    "default_hooks.logger.interval=1",
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
)


@pytest.fixture
def data(tmp_path) -> Path:
    """A Cityscapes of two images of noise for each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        folders = [tmp_path / "data" / kind / split / "ulm" for kind in ("leftImg8bit", "gtFine")]
        for folder in folders:
            folder.mkdir(parents=True)
        for number in range(2):
            image = rng.integers(0, 256, (64, 128, 3), np.uint8)
            labels = rng.integers(0, 19, (64, 128), np.uint8)
            cv2.imwrite(str(folders[0] / f"ulm_{number}_leftImg8bit.png"), image)
            cv2.imwrite(str(folders[1] / f"ulm_{number}_gtFine_labelTrainIds.png"), labels)
    return tmp_path / "data"


def test_a_row_is_trained_tested_timed_and_then_skipped(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work_dir = tmp_path / "work"
    arguments = [
        *("cityscapes-training", "--data-root", str(data), "--work-dir", str(work_dir)),
        *("--rows", "hq", "--device", "cpu", "--no-peer"),
        *("--benchmark-options", "--rounds 2", "--cfg-options", *TINY),
    ]
    assert reproduce.main(arguments) == 0, capsys.readouterr().err
    (row,) = [
        row
        for row in json.loads((work_dir / "table.json").read_text())["rows"]
        if row["row"] == "hq"
    ]
    assert {step["status"] for step in row["steps"].values()} == {"done"}

    logged = sorted((work_dir / "hq" / "train").glob("*/vis_data/scalars.json"))
    validation = json.loads(logged[-1].read_text().splitlines()[-1])
    found = row["steps"]["test"]["results"]["metrics"]
    # The log rounds, and metrics are rounded to two digits themselves.
    assert found["mIoU"] == pytest.approx(validation["mIoU"], abs=0.011)
    assert row["steps"]["train"]["results"]["memory_gib"] is None  # there was no GPU

    speed = row["steps"]["speed"]["results"]
    assert speed["case"] | {"size": "64x64", "batch": 2, "device": "cpu"} == speed["case"]
    assert speed["pipelines"]["ours"]["ms"] > 0
    assert speed["pipelines"]["ours"]["speed"] > 0

    states = (work_dir / "hq" / "state.json").read_text()
    assert reproduce.main(arguments) == 0
    assert capsys.readouterr().out.count("is done, skipped") == 3
    assert (work_dir / "hq" / "state.json").read_text() == states
