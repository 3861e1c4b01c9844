"""What training by each config puts beside the weights is read back without trusting the file."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from mmseg_tome import compat

pytestmark = pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")

CONFIGS = Path(__file__).parents[2] / "configs"


def same(one, two) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    return one == two


def kinds() -> dict[str, tuple[dict, list, str]]:
    """Data set, schedules and scope of the configs, each combination once."""
    from mmengine.config import Config

    found = {}
    for path in sorted(p for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts):
        cfg = Config.fromfile(str(path), import_custom_modules=False)
        if cfg.default_scope == "mmpose" and not compat.has("mmpose"):
            continue
        dataset = cfg.train_dataloader.dataset
        while "dataset" in dataset:
            dataset = dataset.dataset
        schedules = cfg.get("param_scheduler", [])
        key = f"{dataset.type} {dataset.get('metainfo')} {schedules}"
        found.setdefault(key, (path.stem, dataset, schedules, cfg.default_scope))
    return {name: rest for name, *rest in found.values()}


def state_beside_the_weights(dataset: dict, schedules: list, scope: str) -> dict:
    """What mmengine saves of these parts of a config."""
    from mmengine.registry import DATASETS, PARAM_SCHEDULERS, init_default_scope

    import mmseg_tome.datasets  # noqa: F401

    init_default_scope(scope)
    dataset = {**copy.deepcopy(dataset), "lazy_init": True, "pipeline": []}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], 0.1)
    states = []
    for schedule in map(copy.deepcopy, schedules):
        for name in ("convert_to_iter_based", "max_epochs"):
            schedule.pop(name, None)
        scheduler = PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=optimizer))
        optimizer.step()
        scheduler.step()
        states.append(scheduler.state_dict())
    metainfo = DATASETS.build(dataset).metainfo
    optimizer = optimizer.state_dict()
    return dict(meta=dict(dataset_meta=metainfo), optimizer=optimizer, param_schedulers=states)


def test_of_every_kind_of_config(tmp_path, monkeypatch):
    from mmseg_tome.checkpoints.loading import load_from_local
    from mmseg_tome.config import TRUST_VARIABLE

    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.chdir(CONFIGS.parent)
    every = kinds()
    assert len(every) >= 4
    for name, parts in every.items():
        state = state_beside_the_weights(*parts)
        torch.save(state, tmp_path / "own.pth")
        assert same(state, load_from_local(str(tmp_path / "own.pth"))), name


@pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")
def test_of_pose_without_a_skeleton(tmp_path):
    from mmpose.datasets.datasets.utils import parse_pose_metainfo

    from mmseg_tome.checkpoints.loading import load_from_local

    keypoints = {0: dict(name="tip", id=0, color=[255, 0, 0], type="", swap="")}
    metainfo = parse_pose_metainfo(
        dict(
            dataset_name="pens",
            keypoint_info=keypoints,
            skeleton_info={},
            joint_weights=[1.0],
            sigmas=[0.1],
        )
    )
    assert metainfo["skeleton_link_colors"].size == 0
    torch.save(dict(meta=metainfo), tmp_path / "own.pth")
    assert same(metainfo, load_from_local(str(tmp_path / "own.pth"))["meta"])
