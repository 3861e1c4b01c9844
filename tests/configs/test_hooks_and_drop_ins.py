"""What every config has of this package besides the backbone, in our tools and in others."""

from pathlib import Path

import pytest

Config = pytest.importorskip("mmengine.config").Config

from mmseg_tome.cli import additions  # noqa: E402  needs mmengine

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(p for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts)
HOOKS = {**additions.GUARDS, **additions.HOOKS}


def load(path):
    return Config.fromfile(str(path), import_custom_modules=False)


@pytest.mark.parametrize(
    "path", FILES, ids=lambda p: p.relative_to(CONFIGS).with_suffix("").as_posix()
)
def test_hooks_have_names_and_all_else_is_ours(path):
    cfg = load(path)
    assert {name: cfg.default_hooks[name] for name in HOOKS} == HOOKS
    assert {"logger", "checkpoint"} <= set(cfg.default_hooks)
    assert cfg.custom_hooks == []
    pose = cfg.default_scope == "mmpose"
    assert cfg.model.type == f"mmseg_tome.{'TopdownPoseEstimator' if pose else 'EncoderDecoder'}"
    assert cfg.optim_wrapper.constructor == "mmseg_tome.GroupedOptimWrapperConstructor"
    for metric in (cfg.get("val_evaluator"), cfg.test_evaluator):
        if metric and not pose:
            assert metric.type == f"mmseg_tome.{'Grouped' * ('demo' in path.parts)}IoUMetric"
    # So there is nothing that our tools add to the file, but what only a machine can tell.
    assert additions.complete(cfg, gpu=False) is None
    assert additions.complete(cfg, gpu=True).startswith("added to the config: pinned memory")


@pytest.mark.parametrize(
    "name", ["segformerpp_fast_cityscapes", "segformerpp_hq_coco", "demo/segformerpp_hq_demo"]
)
def test_a_users_config_sets_them_by_name(name, tmp_path):
    """As `--cfg-options` do, and as a config that inherits ours does, with hooks of its own."""
    mine = tmp_path / "mine.py"
    mine.write_text(
        f"_base_ = {str(CONFIGS / f'{name}.py')!r}\n"
        'default_hooks = dict(fast_inference=dict(dtype="bfloat16"), logger=dict(interval=7))\n'
        'custom_hooks = [*_base_.custom_hooks, dict(type="EMAHook")]\n'
    )
    cfg = load(mine)
    cfg.merge_from_dict({"default_hooks.merging_visualization.enabled": True})
    ours = cfg.default_hooks
    assert ours.fast_inference == dict(type="mmseg_tome.FastInferenceHook", dtype="bfloat16")
    assert ours.merging_visualization.enabled
    assert ours.logger.type == "LoggerHook"
    assert cfg.custom_hooks == [dict(type="EMAHook")]


def test_schedules_and_runtimes_go_together():
    """mmengine refuses a key that two files of one `_base_` list define."""
    keys = {
        path.relative_to(CONFIGS / "_base_").as_posix(): set(load(path).to_dict())
        for folder in ("", "schedules")
        for path in (CONFIGS / "_base_" / folder).glob("*.py")
    }
    for schedule in ("adamw_160k", "adamw_20k", "adamw_6k"):
        assert not keys[f"schedules/{schedule}.py"] & keys["default_runtime.py"]
    assert not keys["schedules/adamw_210e.py"] & keys["default_runtime_pose.py"]
    assert not keys["default_hooks.py"] & keys["default_runtime.py"]
