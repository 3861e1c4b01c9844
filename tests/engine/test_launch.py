import json
import sys
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmseg_tome.engine import launch
from mmseg_tome.engine.cpu import adapt_to_cpu
from mmseg_tome.engine.errors import DataError, UserError
from mmseg_tome.merging import TomeConfigError
from mmseg_tome.registry import HOOKS


def loader(**dataset):
    return dict(dataset=dict(type="Some", **dataset))


def test_data_that_is_there_passes(tmp_path):
    (tmp_path / "img").mkdir()
    (tmp_path / "list.json").touch()
    launch.check_data(None)
    launch.check_data(
        loader(data_root=str(tmp_path), data_prefix=dict(img="img/"), ann_file="list.json")
    )
    launch.check_data(loader(data_root="s3://bucket", data_prefix=dict(img="img/")))


@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: dict(dataset=dict(datasets=[d["dataset"]]))]
)
def test_missing_data_is_named(tmp_path, wrap):
    root = str(tmp_path)
    with pytest.raises(DataError, match=r"Some: .*nowhere does not exist"):
        launch.check_data(wrap(loader(data_root=f"{root}/nowhere")))
    with pytest.raises(DataError, match=r"labels does not exist"):
        launch.check_data(wrap(loader(data_root=root, data_prefix=dict(seg="labels"))))
    with pytest.raises(DataError, match=r"val.json does not exist"):
        launch.check_data(wrap(loader(data_root=root, ann_file="val.json")))


@pytest.mark.parametrize("error", [UserError, DataError, TomeConfigError])
def test_mistakes_end_in_one_line_and_exit_code_2(error, capsys):
    def main():
        raise error("class `A` in mm/a.py: class `B` in mm/b.py: the ratio is wrong")

    with pytest.raises(SystemExit) as stop:
        launch.run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the ratio is wrong\n"


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        launch.run(lambda: 1 / 0)


def test_the_authors_configs_get_the_merging_backbone():
    flat = [dict(q_mode="n2d", q_s=(2, 2))] * 4
    cfg = Config(dict(model=dict(backbone=dict(type="MixVisionTransformer", tome_cfg=flat))))
    launch._adopt_the_authors_models(cfg)
    assert cfg.model.backbone.type == "mmseg_tome.MixVisionTransformer"
    stock = Config(dict(model=dict(backbone=dict(type="MixVisionTransformer"))))
    launch._adopt_the_authors_models(stock)
    assert stock.model.backbone.type == "MixVisionTransformer"


def test_a_machine_without_gpu_gets_gloo_and_plain_batch_norm(monkeypatch):
    monkeypatch.setattr("mmseg_tome.engine.cpu.get_device", lambda: "cpu")
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
    monkeypatch.setattr("mmseg_tome.engine.cpu.get_device", lambda: "cuda")
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
        launch.check_torchvision()


def test_metrics_are_saved_to_a_file(tmp_path):
    hook = HOOKS.build(dict(type="mmseg_tome.SaveMetricsHook", path=str(tmp_path / "metrics.json")))
    hook.after_test_epoch(SimpleNamespace(rank=1), {"mIoU": 0.0})
    assert not (tmp_path / "metrics.json").exists()
    hook.after_test_epoch(SimpleNamespace(rank=0), {"mIoU": 50.0})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"mIoU": 50.0}
