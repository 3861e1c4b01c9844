"""Whole models: their keys, their initial values and their outputs are those of mm's models."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from mmseg_tome import compat, create_model
from mmseg_tome.merging import TomeConfigError
from mmseg_tome.nets import SegFormer

pytestmark = pytest.mark.usefixtures("one_thread")


def of_config(repo, name: str, preset: str) -> nn.Module:
    """A config's model, initialised as for a training from scratch."""
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    cfg = Config.fromfile(repo / "configs/_base_/models" / name)
    cfg.model.backbone.update(init_cfg=None, tome_cfg=preset)
    if "pose" in name:
        cfg.model.head.out_channels = 17
    torch.manual_seed(5)
    with DefaultScope.overwrite_default_scope("mmpose" if "pose" in name else "mmseg"):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return revert_sync_batchnorm(model).eval()


@pytest.mark.parametrize(
    ("package", "config", "args"),
    [
        ("mmseg", "segformer_mit_b0.py", ("b0",)),
        ("mmseg", "segformer_mit_b2.py", ("b2", 19, "segmentation")),
        ("mmpose", "segformer_pose_mit_b0.py", ("b0", 17, "pose")),
    ],
)
@torch.no_grad()
def test_the_same_seed_gives_the_model_of_a_config(repo, package, config, args):
    if not compat.has(package):
        pytest.skip(f"needs {package}")
    theirs = of_config(repo, config, "fast")
    torch.manual_seed(5)
    ours = create_model(*args, tome_cfg="fast").eval()
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in state)
    images = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(ours(images), theirs(images, None, mode="tensor"), rtol=0, atol=0)


@pytest.mark.skipif(not compat.has("mmseg"), reason="needs mmseg")
@torch.no_grad()
def test_a_linear_head_is_the_registered_one():
    from mmengine.registry import DefaultScope

    from mmseg_tome.models import SegformerLinearHead
    from mmseg_tome.nets import SegformerHead

    levels = [8, 16, 40, 64]
    options = dict(in_index=[0, 1, 2, 3], channels=16, num_classes=7, norm_cfg=dict(type="BN"))
    with DefaultScope.overwrite_default_scope("mmseg"):
        theirs = SegformerLinearHead(in_channels=levels, **options).eval()
    ours = SegformerHead(levels, 7, channels=16, linear=True).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    maps = [torch.randn(2, c, 16 // 2**i, 24 // 2**i) for i, c in enumerate(levels)]
    assert torch.equal(ours(maps), theirs(maps))


def test_models_train():
    torch.manual_seed(0)
    model = create_model("b0", num_classes=3, tome_cfg="hq", channels=16)
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 16, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0]


def test_heatmaps_are_float32_under_autocast():
    model = create_model("b0", 5, task="pose", channels=8).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.randn(1, 3, 64, 48)).dtype == torch.float32
    assert isinstance(model, SegFormer)


@pytest.mark.parametrize(
    ("args", "options", "error", "match"),
    [
        (("b6",), {}, ValueError, "unknown variant 'b6'; allowed: b0, b1"),
        (("b0", 3, "depth"), {}, ValueError, "unknown task 'depth'; allowed: segmentation, pose"),
        (("b0", 3, "pose"), dict(linear=True), ValueError, "not for pose"),
        (("b0",), dict(tome_cfg="quick"), TomeConfigError, "unknown preset 'quick'"),
    ],
)
def test_wrong_arguments_are_named(args, options, error, match):
    with pytest.raises(error, match=match):
        create_model(*args, **options)


def test_the_package_has_no_other_names():
    import mmseg_tome

    with pytest.raises(AttributeError, match="has no attribute 'create_models'"):
        mmseg_tome.create_models  # noqa: B018
    names = {"calibrate", "create_model", "load_weights", "set_merging", "without_merging"}
    assert names <= set(dir(mmseg_tome))
    assert all(callable(getattr(mmseg_tome, name)) for name in names)


TORCH_ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"mmcv", "mmengine", "mmseg", "mmpose", "transformers"}:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import mmseg_tome
assert "torch" not in sys.modules
import torch
from mmseg_tome import create_model, load_weights
"""

STEPS = {
    "set merging anew": """
from mmseg_tome import set_merging, without_merging
model = create_model("b0", 4, channels=16).eval()
images = torch.randn(1, 3, 64, 96)
with torch.no_grad():
    plain = model(images)
    set_merging(model, "fast")
    assert not torch.equal(model(images), plain)
    with without_merging(model):
        assert torch.equal(model(images), plain)
""",
    "calibrate": """
from mmseg_tome import calibrate
model = create_model("b0", 4, tome_cfg="fast-auto", channels=16).eval()
images = torch.randn(1, 3, 64, 96)
found = calibrate(model, images)
assert model.backbone.merging_stages == [stage.merges for stage in found.stages]
assert calibrate(create_model("b0", 4, tome_cfg="fast", channels=16), images) is None
""",
    "build, save, load and run": """
model = create_model("b0", 4, tome_cfg="fast", channels=16).eval()
torch.save(dict(state_dict=model.state_dict(), meta={}), "model.pth")
other = load_weights(create_model("b0", 4, tome_cfg="fast", channels=16), "model.pth").eval()
with torch.no_grad():
    images = torch.randn(2, 3, 64, 96)
    out = model(images)
    assert out.shape == (2, 4, 16, 24) and torch.equal(out, other(images))
""",
    "export": """
model = create_model("b0", 4, tome_cfg="fast", channels=16).eval()
images = torch.randn(1, 3, 64, 96)
with torch.no_grad():
    expected = model(images)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), expected, rtol=1e-4, atol=1e-5)
""",
    "train": """
model = create_model("b0", 5, "pose", tome_cfg="hq", channels=16, with_cp=True)
optimizer = torch.optim.AdamW(model.parameters())
losses = []
for _ in range(5):
    loss = (model(torch.ones(2, 3, 64, 48)) - 0.5).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
""",
}


@pytest.mark.parametrize("step", STEPS)
def test_with_torch_alone_one_can(step, environment, tmp_path):
    code = TORCH_ALONE + STEPS[step]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
