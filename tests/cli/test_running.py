import json
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmseg_tome import config as config_module
from mmseg_tome.cli import running, switches, train
from mmseg_tome.cli.ending import run
from mmseg_tome.cli.running import adapt_to_cpu
from mmseg_tome.errors import DataError, UserError
from mmseg_tome.merging import TomeConfigError
from mmseg_tome.registry import HOOKS


def loader(**dataset):
    return dict(dataset=dict(type="Some", **dataset))


def test_data_that_is_there_passes(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "list.json").touch()
    running.check_data(None)
    running.check_data(
        loader(data_root=str(tmp_path), data_prefix=dict(img="img/"), ann_file="list.json")
    )
    running.check_data(loader(data_root="s3://bucket", data_prefix=dict(img="img/")))


@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: dict(dataset=dict(datasets=[d["dataset"]]))]
)
def test_missing_data_is_named(tmp_path, wrap):
    root = str(tmp_path)
    with pytest.raises(DataError, match=r"Some: .*nowhere does not exist"):
        running.check_data(wrap(loader(data_root=f"{root}/nowhere")))
    with pytest.raises(DataError, match=r"labels does not exist"):
        running.check_data(wrap(loader(data_root=root, data_prefix=dict(seg="labels"))))
    with pytest.raises(DataError, match=r"val.json does not exist"):
        running.check_data(wrap(loader(data_root=root, ann_file="val.json")))


@pytest.mark.parametrize("error", [UserError, DataError, TomeConfigError])
def test_mistakes_end_in_one_line_and_exit_code_2(error, capsys):
    def main():
        raise error("class `A` in mm/a.py: class `B` in mm/b.py: the ratio is wrong")

    assert run(main) == 2
    assert capsys.readouterr().err == "error: the ratio is wrong\n"


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


def test_the_authors_configs_get_the_merging_backbone():
    flat = [dict(q_mode="n2d", q_s=(2, 2))] * 4
    cfg = Config(dict(model=dict(backbone=dict(type="MixVisionTransformer", tome_cfg=flat))))
    config_module._adopt_the_authors_models(cfg)
    assert cfg.model.backbone.type == "mmseg_tome.MixVisionTransformer"
    stock = Config(dict(model=dict(backbone=dict(type="MixVisionTransformer"))))
    config_module._adopt_the_authors_models(stock)
    assert stock.model.backbone.type == "MixVisionTransformer"


def read(path, **options):
    return config_module.read_config(
        Namespace(config=str(path), cfg_options=options, trust_checkpoint=0)
    )


def test_options_of_hooks_that_had_no_names_are_told_the_new_ones(tmp_path):
    config = tmp_path / "mine.py"
    for hooks in ("", "custom_hooks = [dict(type='EMAHook')]"):
        config.write_text(f"test_pipeline = []\n{hooks}\nmodel = dict(type='A')")
        with pytest.raises(UserError, match=r"no custom_hooks.2, .* --launch, --dtype"):
            read(config, **{"custom_hooks.2.enabled": True})
    cfg = read(config, **{"custom_hooks.0.momentum": 0.1})
    assert cfg.custom_hooks == [dict(type="EMAHook", momentum=0.1)]
    with pytest.raises(UserError, match=r"no test_pipeline.3, the list has 0 entries$"):
        read(config, **{"custom_hooks.0.momentum": [1], "test_pipeline.3.scale": 1})


@pytest.mark.parametrize("gpu", [True, False])
def test_a_config_is_completed_and_switched(tmp_path, monkeypatch, capsys, gpu):
    """The switches work where the config has no such hooks, and each line is said once."""
    monkeypatch.setattr(switches, "has_gpu", lambda: gpu)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    config = tmp_path / "mine.py"
    backbone = "dict(type='mmseg_tome.MixVisionTransformer', tome_cfg='hq')"
    config.write_text(
        f"default_scope = 'mmseg'\nmodel = dict(type='EncoderDecoder', backbone={backbone})\n"
    )
    args = [str(config), "--launch", "graphs", "--show-merging", "--work-dir", "work"]
    cfg = running.load_config(train.parse_args(args))
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("added to the config: default_hooks.fast_inference")
    assert said[-1].startswith("--show-merging: pictures merging_*.png below work")
    assert len(said) == (2 if gpu else 3)
    if gpu:
        assert cfg.model.type == "mmseg_tome.EncoderDecoder"
        assert cfg.default_hooks.fast_inference.launch == "graphs"
    else:
        assert said[1] == "warning: --launch graphs has no effect: there is no GPU"
        assert cfg.model.type == "EncoderDecoder"
    assert cfg.default_hooks.merging_visualization.enabled
    assert cfg.default_hooks.checkpoint_guard.type == "mmseg_tome.CheckpointGuardHook"


def test_a_machine_without_gpu_gets_gloo_and_plain_batch_norm(monkeypatch):
    monkeypatch.setattr("mmseg_tome.cli.running.get_device", lambda: "cpu")
    model = dict(head=dict(norm_cfg=dict(type="SyncBN", eps=1)), necks=[dict(type="SyncBN")])
    cfg = Config(
        dict(
            launcher="slurm",
            model=model,
            env_cfg=dict(dist_cfg=dict(backend="nccl")),
            optim_wrapper=dict(type="AmpOptimWrapper", loss_scale="dynamic", accumulative_counts=2),
        )
    )
    adapt_to_cpu(cfg)
    assert cfg.model.head.norm_cfg == dict(type="BN", eps=1)
    assert cfg.model.necks[0].type == "BN"
    assert cfg.env_cfg.dist_cfg.backend == "gloo"
    assert cfg.model_wrapper_cfg.device_ids is None
    assert cfg.optim_wrapper == dict(type="mmseg_tome.CPUAmpOptimWrapper", accumulative_counts=2)


def test_nothing_changes_where_a_gpu_is(monkeypatch):
    monkeypatch.setattr("mmseg_tome.cli.running.get_device", lambda: "cuda")
    cfg = Config(dict(launcher="pytorch", model=dict(norm=dict(type="SyncBN"))))
    adapt_to_cpu(cfg)
    assert cfg.model.norm.type == "SyncBN"
    assert "model_wrapper_cfg" not in cfg


def test_a_torchvision_that_does_not_match_is_named(tmp_path, monkeypatch):
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(UserError, match=r"torchvision does not match torch \(operator torchvis"):
        running.check_torchvision()


def test_metrics_are_saved_to_a_file(tmp_path):
    hook = HOOKS.build(dict(type="mmseg_tome.SaveMetricsHook", path=str(tmp_path / "metrics.json")))
    hook.after_test_epoch(SimpleNamespace(rank=1), {"mIoU": 0.0})
    assert not (tmp_path / "metrics.json").exists()
    hook.after_test_epoch(SimpleNamespace(rank=0), {"mIoU": 50.0})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"mIoU": 50.0}
