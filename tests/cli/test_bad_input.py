"""What a user reads after a mistake: one line that names it, and a non-zero exit code."""

import os
import shutil

import cv2
import numpy as np
import pytest
import torch

from mmseg_tome import compat

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")


@pytest.fixture
def checkpoint(tmp_path, camvid_config, untrained_weights):
    """Save a checkpoint of the CamVid model, with changes, next to the work dir."""

    def save(change=lambda state: None):
        state = untrained_weights(camvid_config)
        change(state)
        path = tmp_path / "checkpoint.bin"
        torch.save(dict(state_dict=state), path)
        return path

    return save


def test_missing_config(mistake):
    assert "config configs/nowhere.py does not exist" in mistake("test.py", "configs/nowhere.py")


def test_a_base_file_is_not_a_config(mistake):
    assert "has no model" in mistake("train.py", "configs/_base_/datasets/camvid.py")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hd", "unknown preset 'hd' in tome_cfg; allowed: fast, fast-prop, fast-turbo, "),
        ("[dict()]", "tome_cfg"),
    ],
)
def test_unknown_preset(mistake, camvid_options, value, message, camvid_config):
    option = f"model.backbone.tome_cfg={value}"
    assert message in mistake("train.py", camvid_config, *camvid_options, option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.backbone.tome_cgf=hq", "MixVisionTransformer takes no tome_cgf; is it tome_cfg?"),
        ("model.backbne.tome_cfg=hq", "has no model.backbne; is it model.backbone?"),
        ("model.decode_head.num_clases=11", "SegformerHead takes no num_clases; is it num_classes"),
        (
            "model.backbone.type=mmseg_tome.MixVisionTransfomer",
            "no class mmseg_tome.MixVisionTransfomer among mmseg::model; is it "
            "mmseg_tome.MixVisionTransformer?",
        ),
        ("train_dataloader.dataset.pipeline.99.scale=1", "the list has 7 entries"),
        (
            "train_dataloader.dataset.pipeline.3.crop_sice=(1,1)",
            "RandomCrop takes no crop_sice; is it crop_size?",
        ),
    ],
)
def test_misspelt_keys_and_classes(mistake, camvid_options, camvid_config, option, message):
    assert message in mistake("train.py", camvid_config, *camvid_options, option)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_base_ = 'nowhere.py'", "nowhere.py does not exist"),
        ("model = dict(\n", "was never closed (line 1)"),
    ],
)
def test_configs_that_cannot_be_read(mistake, tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    assert message in mistake("test.py", tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("q_mode='bms'", "stage 1: unknown q_mode 'bms'; allowed: bsm, n1d, n2d"),
        ("q_mode='n2d', q_size=2", "stage 1: unknown key 'q_size'"),
        ("q=dict(mode='bsm', ratio=1.2)", "ratio must be a number in [0, 1), got 1.2"),
    ],
)
def test_unknown_mode_key_and_ratio(
    mistake, tmp_path, camvid_options, stage, message, camvid_config
):
    config = tmp_path / "mine.py"
    stages = f"[dict({stage}), dict(), dict(), dict()]"
    config.write_text(f"_base_ = '{camvid_config}'\nmodel = dict(backbone=dict(tome_cfg={stages}))")
    assert message in mistake("train.py", config, *camvid_options)


def test_stage_count(mistake, tmp_path, camvid_options, camvid_config):
    config = tmp_path / "mine.py"
    config.write_text(
        f"_base_ = '{camvid_config}'\nmodel = dict(backbone=dict(tome_cfg=[dict(), dict()]))"
    )
    line = mistake("train.py", config, *camvid_options)
    assert "tome_cfg has 2 entries, the backbone has 4 stages" in line


def test_missing_data_root(mistake, checkpoint, camvid_config):
    for tool, args in (("train.py", []), ("test.py", [checkpoint()])):
        options = ["--cfg-options"]
        options += [f"{s}_dataloader.dataset.data_root=nowhere" for s in ("train", "val", "test")]
        assert "CamVidDataset: nowhere does not exist" in mistake(
            tool, camvid_config, *args, *options
        )


def test_missing_checkpoint(mistake, camvid_options, camvid_config):
    line = mistake("test.py", camvid_config, "nowhere.pth", *camvid_options)
    assert "checkpoint nowhere.pth does not exist" in line
    assert "no checkpoint: name one" in mistake("test.py", camvid_config, *camvid_options)


def test_wrong_class_count(mistake, checkpoint, camvid_options, camvid_config):
    def nineteen_classes(state):
        for name in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
            state[name] = torch.zeros(19, *state[name].shape[1:])

    path = checkpoint(nineteen_classes)
    line = mistake("test.py", camvid_config, path, *camvid_options)
    assert "it has 19 classes, the model has 11" in line


@pytest.mark.parametrize("classes", [5, 19])
def test_a_head_for_other_classes_than_the_data(mistake, camvid_options, camvid_config, classes):
    option = f"model.decode_head.num_classes={classes}"
    line = mistake("train.py", camvid_config, *camvid_options, option)
    assert f"CamVidDataset has 11 classes, the model predicts {classes}: set model.decode" in line


def test_labels_of_0_and_255(mistake, camvid, camvid_options, camvid_config, tmp_path):
    shutil.copytree(camvid, tmp_path / "data")
    for path in (tmp_path / "data/labels/train").iterdir():
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), (label > 2).astype(np.uint8) * 255)
    option = f"train_dataloader.dataset.data_root={tmp_path / 'data'}"
    line = mistake("train.py", camvid_config, *camvid_options, option)
    assert "CamVidDataset: the 4 labels looked at hold nothing but 0, 255" in line


def test_a_checkpoint_of_another_model(mistake, checkpoint, camvid_options, camvid_config):
    path = checkpoint(lambda state: state.pop("backbone.layers.0.2.weight"))
    line = mistake("test.py", camvid_config, path, *camvid_options)
    assert "lacks 1 of" in line
    assert "backbone.layers.0.2.weight" in line


class RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("was_run",))


def test_a_checkpoint_with_code(mistake, tmp_path, camvid_options, camvid_config):
    path = tmp_path / "evil.bin"
    torch.save(dict(state_dict=RunsCode()), path)
    line = mistake("test.py", camvid_config, path, *camvid_options)
    assert "mkdir" in line
    assert "--trust-checkpoint" in line
    assert not os.path.exists("was_run")


def test_a_zoo_that_cannot_be_reached(mistake, camvid_options, camvid_config):
    url = "http://127.0.0.1:9/b0-01234567.pth"
    line = mistake("test.py", camvid_config, url, *camvid_options)
    assert f"cannot download {url}" in line
    assert "put it at" in line


def test_an_image_smaller_than_the_backbone_can_take(
    mistake, checkpoint, camvid_options, camvid_config
):
    options = [*camvid_options, "test_dataloader.dataset.pipeline.1.scale=(20,15)"]
    line = mistake("test.py", camvid_config, checkpoint(), *options)
    assert "pixels is too small" in line
    assert "at least 29" in line


def test_switches_that_contradict_each_other(mistake, camvid_options, camvid_config):
    line = mistake("train.py", camvid_config, "--amp", "--dtype", "float32", *camvid_options)
    assert line == "error: --amp is --dtype float16: leave it out with --dtype float32"


def test_positions_of_hooks_that_have_names_now(mistake, camvid_config):
    line = mistake("test.py", camvid_config, "--cfg-options", "custom_hooks.2.enabled=True")
    assert "there is no custom_hooks.2, the list has 0 entries. Hooks of mmseg_tome have" in line


def test_options_that_a_config_cannot_take(mistake, checkpoint, camvid_options, camvid_config):
    path = checkpoint()
    assert "--badcase needs" in mistake(
        "test.py", camvid_config, path, "--badcase", *camvid_options
    )
    assert "must end in .pkl" in mistake(
        "test.py", camvid_config, path, "--dump", "a.txt", *camvid_options
    )
