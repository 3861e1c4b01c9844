"""`torch.hub.load` of this repository, where nothing of the mm stack can be imported."""

import subprocess
import sys

import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.errors import CheckpointError, UserError

ENTRIES = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mmcv", "mmengine", "mmseg", "mmpose", "transformers", "PIL"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
import torch

torch.set_num_threads(1)
repo, checkpoint, pose, out = sys.argv[1:]
names = sorted(n for n, e in vars(torch.hub._load_local.__globals__["_import_module"](
    "hubconf", f"{repo}/hubconf.py")).items() if callable(e) and not n.startswith("_"))

def load(name, *args, **options):
    return torch.hub.load(repo, name, *args, source="local", **options)

images = torch.linspace(-2, 2, 2 * 3 * 64 * 96).sin().view(2, 3, 64, 96)
ours = load("segformer_plusplus", backbone="b0", num_classes=11, tome_cfg="hq",
            checkpoint=checkpoint)
theirs = load("segformer_plusplus", pretrained=True, backbone="b0", tome_strategy="bsm_hq",
              checkpoint_url=checkpoint, out_channels=11)
placed = load("segformer_plusplus", "b0", "n2d_2x2", 11, False)
person = load("segformer_plusplus_pose", backbone="b0", tome_cfg="fast", checkpoint=pose)
with torch.no_grad():
    outputs = {name: model.eval()(images) for name, model in
               dict(ours=ours, theirs=theirs, pose=person).items()}
outputs["placed"] = repr(placed.backbone.attentions()[0][0].q_merger.strategy)
outputs["names"] = names
transform = load("data_transforms", resolution=(32, 48))
image = (torch.arange(64 * 96 * 3) % 251).to(torch.uint8).view(64, 96, 3)
outputs["transformed"] = transform(image)
torch.save(outputs, out)
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """What mm's own models save, and the models."""
    if not (compat.has("mmseg") and compat.has("mmpose")):
        pytest.skip("needs mmseg and mmpose")
    from mmseg_tome.checkpoints.model import load_model
    from mmseg_tome.config import read_config_file

    folder, found = tmp_path_factory.mktemp("hub"), {}
    for name in ("segformerpp_b0_hq_camvid_480x360", "segformerpp_b0_fast_coco"):
        model = load_model(read_config_file(name), None)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        torch.save(dict(state_dict=model.state_dict()), folder / f"{name}.pth")
        found[folder / f"{name}.pth"] = model
    return found


@pytest.fixture(scope="module")
def outputs(repo, checkpoints, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("out") / "out.pth"
    command = [sys.executable, "-W", "ignore", "-c", ENTRIES, repo, *checkpoints, out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out)


@torch.no_grad()
def test_outputs_are_those_of_mms_models_with_the_same_weights(outputs, checkpoints):
    images = torch.linspace(-2, 2, 2 * 3 * 64 * 96).sin().view(2, 3, 64, 96)
    segmentor, pose = checkpoints.values()
    expected = segmentor(images, mode="tensor")
    assert expected.std() > 0.1
    close = dict(rtol=1e-4, atol=2e-5)  # in another process, numbers may be added in another order
    torch.testing.assert_close(outputs["ours"], expected, **close)
    torch.testing.assert_close(outputs["pose"], pose(images, None, mode="tensor"), **close)


def test_the_authors_arguments_mean_the_same(outputs):
    assert torch.equal(outputs["theirs"], outputs["ours"])
    assert outputs["placed"] == "NeighbourMerging2D(stride=(2, 2))"


def test_entry_points(outputs):
    """Imports of hubconf.py would be listed as entry points, too."""
    assert outputs["names"] == ["data_transforms", "segformer_plusplus", "segformer_plusplus_pose"]


def test_transforms_are_torchvisions(outputs):
    """Resize bilinearly with antialiasing, scale to 0 to 1, normalise: by hand, from numpy."""
    image = (torch.arange(64 * 96 * 3) % 251).to(torch.uint8).view(64, 96, 3)
    small = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None].float() / 255, (32, 48), mode="bilinear", antialias=True
    )[0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (small - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(outputs["transformed"], expected)


@pytest.fixture
def hub(repo):
    def load(name="segformer_plusplus", **options):
        return torch.hub.load(str(repo), name, source="local", **options)

    return load


def test_a_pil_image_is_the_same_as_its_array(hub):
    import numpy as np
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    transform = hub("data_transforms", resolution=(20, 30))
    assert torch.equal(transform(Image.fromarray(array)), transform(array))
    with pytest.raises(UserError, match=r"uint8 \[H, W, 3\], got torch.uint8 \[20, 30\]"):
        transform(array[..., 0])


def test_weights_that_cannot_be_had_raise(hub, tmp_path, monkeypatch):
    """The authors' entry prints a line and returns a model without them."""

    def fail(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(CheckpointError, match=r"mit_b0_20220624-7e0fe6dd.pth \(no network\)"):
        hub(backbone="b0")
    link = "https://mediastore.rz.uni-augsburg.de/get/yzE65lzm6N/"
    with pytest.raises(CheckpointError, match=r"put it at .*/yzE65lzm6N"):
        hub(backbone="b0", checkpoint_url=link)
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), tmp_path / "other.pth")
    with pytest.raises(CheckpointError):
        hub(backbone="b0", checkpoint=str(tmp_path / "other.pth"))


def test_a_downloaded_file_without_an_ending_is_read(hub, tmp_path, monkeypatch):
    from mmseg_tome import create_model

    model = create_model("b0", 19)
    (tmp_path / "checkpoints").mkdir()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "checkpoints" / "yzE65lzm6N")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    link = "https://mediastore.rz.uni-augsburg.de/get/yzE65lzm6N/"
    found = hub(backbone="b0", checkpoint_url=link).state_dict()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_classes=3, out_channels=4), "num_classes=3 and out_channels=4 differ"),
        (dict(backbone="b9"), "unknown variant 'b9'"),
        (dict(tome_strategy="bsm_best"), "unknown preset 'bsm_best'"),
    ],
)
def test_mistakes(hub, options, message):
    with pytest.raises(ValueError, match=message):
        hub(**{"pretrained": False, "backbone": "b0", **options})
