"""The benchmark of the tools on the tools: toy sizes on a CPU, in processes of their own."""

import json

import pytest

pytest.importorskip("mmseg")


from mmseg_tome.cli import benchmark
from mmseg_tome.lab.bench.as_typed import losses


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Run the tool on tiny data; the table and the whole summary."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folders = ("--folder", str(tmp_path / "place"), "--out", str(tmp_path / "out"))

    def run(case, *options):
        small = ("--models", "b0", "--images", "4", "--size", "64x128", "--warmup", "1")
        code = benchmark.main(["--as-typed", case, *small, "--rounds", "1", *folders, *options])
        found = json.loads((tmp_path / "out" / "as_typed.json").read_text())
        assert code == 0, [row.get("output_tail") for row in found["runs"]]
        return found

    return run


def check(found, *variants):
    assert [row["variant"] for row in found["table"]] == list(variants)
    for row in found["table"]:
        assert row["seconds"] > 0
        assert 0 <= row["data_share"] <= 1
        assert row["vs_stock"] > 0
    for run in found["runs"]:
        assert len(run["windows"]) >= 2


def test_testing_segmentation(measured):
    found = measured("test-slide", "--presets", "none")
    check(found, "stock", "none")
    stock, none = (row["metrics"]["mIoU"] for row in found["table"])
    assert stock > 0
    assert none == pytest.approx(stock, abs=0.05)  # the same network on the same images
    seen = found["environment"]["attention"]["float32"]
    assert seen["test-slide stock"].startswith("materialised")
    assert seen["test-slide none"].startswith("fused")
    assert any("eagerly (CUDA graphs need a GPU)" in line for line in found["runs"][1]["said"])
    assert not found["runs"][0]["said"]  # nothing of ours runs in stock


@pytest.mark.slow
def test_training(measured):
    batch = ("--cfg-options", "train_dataloader.batch_size=2")
    found = measured("train", "--presets", "fast", "--iters", "4", *batch)
    check(found, "stock", "fast")
    assert [row["batch"] for row in found["table"]] == [2, 2]
    assert "--amp" in found["runs"][0]["command"]
    assert "/configs/" in found["runs"][0]["command"]


@pytest.mark.slow
def test_losses_on_a_cpu_are_the_same(measured):
    batch = ("--cfg-options", "train_dataloader.batch_size=2", "model.backbone.drop_path_rate=0.3")
    found = measured("losses", "--presets", "none", "--iters", "3", *batch)
    (row,) = found["losses"]
    assert row["steps"] == 3
    assert set(row["losses"]) == set(losses.LABELS)
    assert row["difference"] == row["noise"] == 0
    assert len(set(row["losses"]["eager"])) == 3


@pytest.mark.slow
def test_testing_pose(measured):
    pytest.importorskip("mmpose")
    found = measured(
        "pose-coco", "--presets", "none", "--cfg-options", "test_dataloader.batch_size=3"
    )
    check(found, "stock", "none")
    stock, none = (row["metrics"] for row in found["table"])
    assert none == pytest.approx(stock, abs=0.02)
