"""Peers with random weights, and our model of whatever they are converted to."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tome import compat
from mmseg_tome.checkpoints import Checkpoint, loading
from mmseg_tome.checkpoints.config_file import make_config_text
from mmseg_tome.checkpoints.writing import write

SIZES = [(64, 96), (77, 101)]
"""Heights and widths of images: whole multiples of all strides, and neither."""


@pytest.fixture(autouse=True)
def quick(one_thread):
    """All models here are small."""


@pytest.fixture(autouse=True)
def distrust(monkeypatch):
    """Nothing is trusted, whatever the environment of these tests says."""
    monkeypatch.delenv(loading.TRUST_VARIABLE, raising=False)


@pytest.fixture(params=SIZES, ids=str)
def image(request) -> Tensor:
    return torch.randn(2, 3, *request.param)


@pytest.fixture(scope="session")
def randomise():
    """Give every parameter and statistic a value of its own.

    Convolutions that feed a norm give small numbers, where epsilons of norms show; a bias that is
    not small beside them would make all pixels alike.
    """

    def fill(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        small = {
            f"{name}.bias"
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1 and module.groups == 1
        }
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if "running_var" in name:
                noise = noise.abs() + 0.5
            elif value.ndim == 1:
                noise *= 0.003 if name in small else 0.1
                if re.search(r"(norm\w*|bn)\.weight$|layers\.\d\.2\.weight$", name):
                    noise += 1
            else:
                noise /= value[0].numel() ** 0.5
                noise *= 0.01 if name.replace("weight", "bias") in small else 1
            value.data.copy_(noise)
        return model.eval()

    return fill


@pytest.fixture
def assert_same():
    """Outputs that say something, `[B, C, H, W]`, are equal to rounding."""

    def check(found: Tensor, expected: Tensor):
        assert expected.std(dim=(2, 3)).mean() > 0.1, "the peer sees no difference between pixels"
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    return check


@pytest.fixture
def ours(repo, tmp_path):
    """Our model of a converted checkpoint: the config that is made for it, and the written file."""

    def build(checkpoint: Checkpoint, suffix: str = ".pth", dataset: str | None = None):
        from mmengine.registry import init_default_scope

        from mmseg_tome.checkpoints.fitting import load_state
        from mmseg_tome.checkpoints.loading import load_from_local

        weights, config = tmp_path / f"weights{suffix}", tmp_path / "config.py"
        write(checkpoint, weights)
        text = make_config_text(checkpoint, weights, config, repo / "configs", dataset)
        config.write_text(text)
        cfg = Config.fromfile(config)
        assert Path(cfg.load_from).resolve() == weights
        init_default_scope(cfg.default_scope)
        cfg.model.decode_head.norm_cfg = dict(type="BN")
        from mmseg.registry import MODELS

        model = MODELS.build(cfg.model).eval()
        state = load_from_local(cfg.load_from)["state_dict"]
        assert state.keys() == model.state_dict().keys()
        load_state(model, load_from_local(cfg.load_from), "converted")
        return model

    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    return build


@pytest.fixture
def logits():
    """Logits of our model, at a quarter of the images' size."""

    def run(model: nn.Module, images: Tensor) -> Tensor:
        with torch.no_grad():
            return model.decode_head(model.backbone(images))

    return run
