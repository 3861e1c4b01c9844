"""Running commands in this process, and models and images for them."""

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

from mmseg_tome.config import TRUST_VARIABLE

TINY = dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a command in this process; its exit code, what it printed, its lines that name errors."""
    monkeypatch.setenv(TRUST_VARIABLE, "0")

    def run(name: str, *args, said: tuple[str, ...] = ("error: ",)) -> tuple[int, str, list[str]]:
        module = import_module(f"mmseg_tome.cli.{name}")
        try:
            code = module.main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        lines = [line.strip() for line in printed.err.splitlines()]
        return code, printed.out, [line for line in lines if line.startswith(said)]

    return run


@pytest.fixture(scope="session")
def street_scenes(shared, tmp_path_factory) -> Callable[..., Path]:
    """A folder with street scenes of CamVid, 480x360, under these names."""

    def copy(*names: str) -> Path:
        folder = tmp_path_factory.mktemp("images")
        found = sorted((shared / "data" / "camvid" / "images" / "val").iterdir())
        for file, name in zip(found, names, strict=False):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(file, folder / name)
        return folder

    return copy


@pytest.fixture(scope="session")
def camvid_model(camvid_config, untrained_weights, tmp_path_factory) -> list[str]:
    """`--config` and `--checkpoint` of the CamVid model, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "camvid.pth"
    torch.save(dict(state_dict=untrained_weights(camvid_config)), path)
    return ["--config", str(camvid_config), "--checkpoint", str(path)]


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory) -> Callable[..., list[str]]:
    """`--config` and `--checkpoint` of a config made tiny, with weights as large as trained."""

    def build(cfg, **backbone) -> list[str]:
        from mmengine.registry import MODELS, init_default_scope

        folder = tmp_path_factory.mktemp("tiny")
        channels = [TINY["embed_dims"] * heads for heads in TINY["num_heads"]]
        cfg.model.backbone.update(TINY, init_cfg=None, **backbone)
        (cfg.model.get("decode_head") or cfg.model.head).update(in_channels=channels, channels=16)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
        cfg.dump(folder / "tiny.py")
        torch.save(dict(state_dict=model.state_dict()), folder / "tiny.pth")
        return ["--config", str(folder / "tiny.py"), "--checkpoint", str(folder / "tiny.pth")]

    return build
