"""mm's own inferencers find our models by name, once they are asked to."""

import subprocess
import sys

import pytest

from mmseg_tome import compat

ASK = """
import sys
import numpy as np
import torch
import mmseg_tome

torch.set_num_threads(1)
mmseg_tome.add_to_inferencers()
mmseg_tome.add_to_inferencers()  # a second time nothing happens

from mmengine.infer import BaseInferencer
from mmpose.apis import Pose2DInferencer
from mmseg.apis import MMSegInferencer

wanted = ("segformerpp_b0_hq_cityscapes", "segformerpp_hq_coco")
theirs = (
    "segformer_mit-b0_8xb1-160k_cityscapes-1024x1024", "td-hm_hrnet-w32_8xb64-210e_coco-256x192"
)
for scope in ("mmseg", "mmpose", "mmseg_tome"):
    names = BaseInferencer.list_models(scope)
    print(scope, *map(names.count, (*wanted, *theirs)))

weights, config = sys.argv[1:]
inferencer = MMSegInferencer(wanted[0], weights=weights, device="cpu")
assert inferencer.cfg.model.backbone.tome_cfg == "hq"
assert type(inferencer.model.backbone).__module__ == "mmseg_tome.models.mix_transformer"
inferencer.model.test_cfg.mode = "whole"
for step in inferencer.pipeline.transforms:
    if hasattr(step, "scale"):
        step.scale = (128, 64)
sample = inferencer(np.zeros((64, 128, 3), np.uint8), return_datasamples=True)
print(tuple(sample.pred_sem_seg.data.shape))
try:
    MMSegInferencer(wanted[0], device="cpu")
except mmseg_tome.errors.CheckpointError as error:
    print("put it at" in str(error))

# By name the config and the address of a B5, which takes seconds to build; then a B0.
class Names(Pose2DInferencer):
    def __init__(self):
        self.scope = "mmpose"

cfg, weights = Names()._load_model_from_metafile("segformerpp_hq_coco_trained")
print(cfg.model.backbone.tome_cfg, weights)
inferencer = Pose2DInferencer(config, device="cpu", det_model="whole_image")
found = next(inferencer(np.zeros((200, 150, 3), np.uint8)))
print(len(found["predictions"][0][0]["keypoints"]))
"""


@pytest.mark.skipif(
    not (compat.has("mmseg") and compat.has("mmpose")), reason="needs mmseg and mmpose"
)
def test_mms_inferencers_find_them(environment, tmp_path):
    import torch

    from mmseg_tome.checkpoints.model import load_model
    from mmseg_tome.config import read_config_file
    from mmseg_tome.config_names import find_config

    cfg = read_config_file("segformerpp_b0_hq_cityscapes")
    torch.save(dict(state_dict=load_model(cfg, None).state_dict()), tmp_path / "b0.pth")
    command = [sys.executable, "-W", "ignore", "-c", ASK, tmp_path / "b0.pth"]
    done = subprocess.run(
        [*map(str, command), str(find_config("segformerpp_b0_hq_coco"))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**environment, "TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if not line.startswith("model_name")]
    found = iter(lines)
    for expected in (
        "mmseg 1 0 1 0",
        "mmpose 0 1 0 1",
        "mmseg_tome 1 1 0 0",
        "(1, 64, 128)",
        "True",
        "hq https://mediastore.rz.uni-augsburg.de/get/oAH5IlPxG8/",
        "17",
    ):
        assert any(line == expected for line in found), (expected, lines)
