"""`tools/train.py` and `tools/test.py` on COCO's people, and MMPose's own tools on our configs."""

import json
from pathlib import Path

import pytest

from mmseg_tome import compat

pytestmark = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")

METRICS = ("coco/AP", "coco/AR", "PCK@0.1/PCK", "PCK@0.05/PCK")


@pytest.fixture(scope="module")
def config(repo) -> Path:
    return repo / "configs" / "b0" / "segformerpp_b0_hq_coco.py"


@pytest.fixture(scope="module")
def data(shared) -> Path:
    return shared / "data" / "coco_sample"


@pytest.fixture(scope="module")
def options(data) -> list[str]:
    """`--cfg-options` for COCO's sample: 4 images, 12 persons, on a small input."""
    per_stage = [
        f"{stage}_dataloader.{option}"
        for stage in ("train", "val", "test")
        for option in (
            f"dataset.data_root={data}",
            "dataset.ann_file=test_coco.json",
            "dataset.data_prefix.img=",
            "batch_size=4",
            "num_workers=0",
            "persistent_workers=False",
        )
    ]
    size, heatmap_size = "(96,128)", "(24,32)"
    return [
        "--cfg-options",
        *per_stage,
        *(f"{stage}_dataloader.dataset.pipeline.2.input_size={size}" for stage in ("val", "test")),
        f"train_dataloader.dataset.pipeline.5.input_size={size}",
        *(
            f"{codec}.{option}"
            for codec in ("train_dataloader.dataset.pipeline.6.encoder", "model.head.decoder")
            for option in (f"input_size={size}", f"heatmap_size={heatmap_size}", "sigma=2")
        ),
        "model.backbone.init_cfg=None",
        "train_cfg.val_interval=1",
        "default_hooks.checkpoint.interval=1",
        "default_hooks.logger.interval=1",
        "randomness.seed=1",
    ]


def scalars(work_dir: Path) -> list[dict]:
    return [json.loads(line) for line in max(work_dir.glob("2*/vis_data/scalars.json")).open()]


def scores(work_dir: Path) -> dict:
    found = json.loads(max(work_dir.glob("2*/2*.json")).read_text())
    return {name: found[name] for name in METRICS if name in found}


@pytest.fixture(scope="module")
def trained(run_tool, config, options, tmp_path_factory) -> Path:
    """Work dir of a training of one epoch, resumed for a second one."""
    work_dir = tmp_path_factory.mktemp("pose")
    for epochs, resume in ((1, []), (2, ["--resume"])):
        out = run_tool(
            "train.py", config, "--work-dir", work_dir, *resume, *options,
            f"train_cfg.max_epochs={epochs}",
        )  # fmt: skip
    assert "resumed epoch: 1, iter: 3" in out
    assert (work_dir / "epoch_2.pth").is_file()
    return work_dir


def test_testing_repeats_the_validation_of_the_training(trained, run_tool, config, options):
    out, shown = trained / "metrics.json", trained / "shown"
    run_tool(
        "test.py", config, trained / "epoch_2.pth", "--work-dir", trained / "tested",
        "--out", out, "--show-dir", shown, *options,
    )  # fmt: skip
    last = scalars(trained)[-1]
    assert set(METRICS) <= set(last)
    assert scores(trained / "tested") == pytest.approx({name: last[name] for name in METRICS})
    assert json.loads(out.read_text())["coco/AP"] == pytest.approx(last["coco/AP"])
    assert len(list(shown.rglob("*.png")) + list(shown.rglob("*.jpg"))) == 12


@pytest.mark.slow
def test_two_processes_score_what_one_does_and_the_stock_tool_too(
    trained, run_tool, config, options, tmp_path
):
    import mmpose

    checkpoint = trained / "epoch_2.pth"
    run_tool("test.py", config, checkpoint, "--work-dir", tmp_path / "one", *options)
    run_tool("dist_test.sh", config, checkpoint, 2, "--work-dir", tmp_path / "two", *options)
    stock = Path(mmpose.__file__).parent / ".mim" / "tools" / "test.py"
    run_tool(stock, config, checkpoint, "--work-dir", tmp_path / "stock", *options, cwd=tmp_path)
    assert len(scores(tmp_path / "one")) == len(METRICS)
    assert scores(tmp_path / "two") == pytest.approx(scores(tmp_path / "one"))
    assert scores(tmp_path / "stock") == pytest.approx(scores(tmp_path / "one"))


def test_the_stock_tool_trains(run_tool, config, options, tmp_path):
    import mmpose

    stock = Path(mmpose.__file__).parent / ".mim" / "tools" / "train.py"
    run_tool(
        stock, config, "--work-dir", tmp_path, *options, "train_cfg.max_epochs=1", cwd=tmp_path
    )  # fmt: skip
    assert (tmp_path / "epoch_1.pth").is_file()


@pytest.mark.slow
def test_two_processes_train_with_amp_and_udp(run_tool, config, options, tmp_path):
    codecs = ("train_dataloader.dataset.pipeline.6.encoder", "model.head.decoder")
    out = run_tool(
        "dist_train.sh", config, 2, "--amp", "--verbose", "--work-dir", tmp_path, *options,
        "train_cfg.max_epochs=1", *(f"{codec}.type=UDPHeatmap" for codec in codecs),
    )  # fmt: skip
    assert "GPU number: 2" in out
    assert set(METRICS) <= set(scalars(tmp_path)[-1])
    losses = [entry["loss"] for entry in scalars(tmp_path) if "loss" in entry]
    assert losses
    assert all(0 < loss < 1 for loss in losses)


def test_detected_boxes(run_tool, repo, config, options, data, trained, tmp_path):
    """A B0 with what the `_coco_detections` configs say, on the detections of COCO's sample.

    Detectors also give boxes that reach out of the image, that lie outside, and empty ones.
    """
    found = json.loads((data / "test_coco_det_AP_H_56.json").read_text())[:20]
    odd = ([-50, -20, 90, 70], [5000, 5000, 40, 80], [30, 40, 0, 0], [600, 400, 900, 900])
    found += [found[0] | dict(bbox=box, score=0.1) for box in odd]
    bbox_file = tmp_path / "detections.json"
    bbox_file.write_text(json.dumps(found))
    written = tmp_path / "b0_detections.py"
    written.write_text(
        f'_base_ = "{config.as_posix()}"\n'
        f'test_dataloader = dict(dataset=dict(bbox_file="{bbox_file}"))\n'
        'test_evaluator = [dict(type="CocoMetric")]\n'
    )
    run_tool("test.py", written, trained / "epoch_2.pth", "--work-dir", tmp_path / "w", *options)
    found = json.loads(max((tmp_path / "w").glob("2*/2*.json")).read_text())
    assert 0 <= found["coco/AP"] <= 1
    assert not any("PCK" in name for name in found)


def ground_truth_scores(dataset_cfg, metrics, change=lambda keypoints: keypoints) -> dict:
    """Metrics of a data set's own annotations, given as if a model had predicted them."""
    from mmengine.evaluator import Evaluator
    from mmengine.registry import DefaultScope
    from mmpose.registry import DATASETS

    with DefaultScope.overwrite_default_scope("mmpose"):
        dataset = DATASETS.build(dataset_cfg)
        evaluator = Evaluator(metrics)
    evaluator.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        sample = dataset[i]["data_samples"]
        truth = sample.gt_instances
        result = sample.to_dict()
        result["pred_instances"] = dict(
            keypoints=change(truth.keypoints.copy()),
            keypoint_scores=truth.keypoints_visible.reshape(1, -1).astype("float32"),
        )
        result["gt_instances"] = {key: truth.get(key) for key in truth.keys()}  # noqa: SIM118
        evaluator.process([result], None)
    return evaluator.evaluate(len(dataset))


def test_ground_truth_as_prediction_scores_one(config, data):
    from mmengine.config import Config

    cfg = Config.fromfile(config)
    dataset = cfg.test_dataloader.dataset
    dataset.update(data_root=str(data), ann_file="test_coco.json", data_prefix=dict(img=""))
    found = ground_truth_scores(dataset, cfg.test_evaluator)
    assert {found[name] for name in METRICS} == {1.0}
    far = ground_truth_scores(dataset, cfg.test_evaluator, lambda keypoints: keypoints + 500)
    assert {far[name] for name in METRICS} == {0.0}


class TestMistakes:
    """What a user reads: one line, before any work is spent."""

    def test_missing_image(self, mistake, options, config, data, tmp_path):
        content = json.loads((data / "test_coco.json").read_text())
        content["images"][0]["file_name"] = "gone.jpg"
        broken = tmp_path / "broken.json"
        broken.write_text(json.dumps(content))
        line = mistake("train.py", config, *options, f"train_dataloader.dataset.ann_file={broken}")
        assert line.startswith("error: CocoDataset: 1 of the 4 files")
        assert line.endswith("gone.jpg")

    def test_nobody_in_it(self, mistake, options, config, data, tmp_path):
        content = json.loads((data / "test_coco.json").read_text()) | dict(annotations=[])
        empty = tmp_path / "empty.json"
        empty.write_text(json.dumps(content))
        line = mistake("train.py", config, *options, f"train_dataloader.dataset.ann_file={empty}")
        assert line.startswith("error: CocoDataset: nothing to use in")

    def test_another_input_size(self, mistake, options, config):
        line = mistake(
            "train.py",
            config,
            *options,
            "train_dataloader.dataset.pipeline.5.input_size=(200,152)",
        )
        assert "heatmap_size is (24, 32) (w, h), but the network's heatmaps are (50, 38)" in line

    def test_missing_detections(self, mistake, options, repo, trained):
        config = repo / "configs" / "segformerpp_hq_coco_detections.py"
        line = mistake("test.py", config, trained / "epoch_2.pth", *options)
        assert "COCO_val2017_detections_AP_H_56_person.json does not exist" in line

    def test_a_checkpoint_for_other_keypoints(self, mistake, options, repo, trained):
        config = repo / "configs" / "b0" / "segformerpp_b0_hq_jbd.py"
        line = mistake(
            "test.py", config, trained / "epoch_2.pth", *options,
            "test_dataloader.dataset.type=CocoDataset",
        )  # fmt: skip
        assert line.startswith("error: CocoDataset has 17 keypoints, the model's head predicts 20")


def test_the_authors_pose_config_runs_as_it_is(run_tool, config, options, trained, tmp_path):
    """Stock type names, flat merging keys, `num_keypoints`: what their files say."""
    flat = [dict(kv_mode="bsm", kv_r=0.6, kv_sx=2, kv_sy=2)] * 2
    flat += [dict(q_mode="bsm", q_r=0.8, q_sx=4, q_sy=4)] * 2
    written = tmp_path / "theirs.py"
    written.write_text(
        f'_base_ = "{config.as_posix()}"\n'
        f'model = dict(backbone=dict(type="MixVisionTransformer", tome_cfg={flat}),\n'
        '    head=dict(_delete_=True, type="SegformerHead", in_channels=[32, 64, 160, 256],\n'
        "        channels=256, num_keypoints=17, decoder=_base_.codec,\n"
        '        loss=dict(type="KeypointMSELoss", use_target_weight=True)))\n'
    )
    checkpoint = trained / "epoch_2.pth"
    for name, path in (("theirs", written), ("ours", config)):
        run_tool("test.py", path, checkpoint, "--work-dir", tmp_path / name, *options)
    assert scores(tmp_path / "theirs") == scores(tmp_path / "ours")
