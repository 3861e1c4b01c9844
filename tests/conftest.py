"""Fixtures shared by all tests; below, running the tools as a user does, on a few real images."""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

if find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # Property tests try the same cases on every run, however long a case takes.
    settings.register_profile(
        "repeatable",
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("repeatable")

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and golden outputs that lie beside the checkout but are not part of it."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout: real images and golden outputs are absent")
    return SHARED


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same random numbers, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for each other cost far more than they gain on models this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def camvid_config(repo) -> Path:
    """A config that merges, of the smallest model on the smallest real data set."""
    return repo / "configs" / "camvid" / "segformerpp_b0_hq_camvid_480x360.py"


@pytest.fixture(scope="session")
def camvid(shared, tmp_path_factory) -> Path:
    """A CamVid data root with four training and four validation images."""
    root = tmp_path_factory.mktemp("camvid")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            folder = root / kind / split
            folder.mkdir(parents=True)
            source = shared / "data" / "camvid" / kind / split
            for file in sorted(source.iterdir())[:4]:
                shutil.copy(file, folder)
    return root


@pytest.fixture(scope="session")
def camvid_options(camvid) -> list[str]:
    """`--cfg-options` that make a CamVid config read that data and run a few small iterations."""
    per_stage = [
        f"{stage}_dataloader.{option}"
        for stage in ("train", "val", "test")
        for option in (f"dataset.data_root={camvid}", "num_workers=0", "persistent_workers=False")
    ]
    return [
        "--cfg-options",
        *per_stage,
        "train_dataloader.batch_size=2",
        # Dictionaries in the pipeline: [load, annotate, resize, crop, ...]
        "train_dataloader.dataset.pipeline.3.crop_size=(96,128)",
        "model.data_preprocessor.size=(96,128)",
        "default_hooks.checkpoint.interval=2",
        "default_hooks.checkpoint.save_best=None",
        "default_hooks.logger.interval=1",
        "randomness.seed=1",
    ]


TINY_SEGMENTOR = """
_base_ = {base!r}
model = dict(
    backbone=dict(embed_dims=8, num_layers=[1, 1, 2, 1]),
    decode_head=dict(in_channels=[8, 16, 40, 64], channels=16),
)
test_dataloader = dict(dataset=dict(data_root={data!r}))
"""


@pytest.fixture(scope="session")
def write_segmentor(repo) -> Callable[..., Path]:
    """Write a tiny segmentor's config `tiny.py`, 96x128 test images in `data`, checkpoints `0.pth`.

    Images are blocks with noise. Weights are as large as trained ones: predictions differ by pixel.
    """

    def write(place: Path, preset: str, names: str, seeds: int = 1) -> Path:
        import cv2
        from mmengine.config import Config
        from mmengine.model import revert_sync_batchnorm
        from mmengine.registry import init_default_scope
        from mmseg.registry import MODELS

        generator = np.random.default_rng(0)
        for kind in ("images", "labels"):
            (place / "data" / kind / "val").mkdir(parents=True)
        for name in names:
            label = np.kron(generator.choice([0, 2, 3, 8, 255], (6, 8)), np.ones((16, 16)))
            image = label[..., None] * 20 + generator.integers(0, 40, (*label.shape, 3))
            cv2.imwrite(str(place / "data/labels/val" / f"{name}.png"), label.astype(np.uint8))
            cv2.imwrite(str(place / "data/images/val" / f"{name}.png"), image.astype(np.uint8))
        base = str(repo / f"configs/camvid/segformerpp_b0_{preset}_camvid_480x360.py")
        config = TINY_SEGMENTOR.format(base=base, data=str(place / "data"))
        (place / "tiny.py").write_text(config)
        init_default_scope("mmseg")
        for seed in range(seeds):
            torch.manual_seed(seed)
            cfg = Config.fromfile(place / "tiny.py")
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, std=0.3)
            torch.save(dict(state_dict=model.state_dict()), place / f"{seed}.pth")
        return place

    return write


@pytest.fixture(scope="session")
def hq_folder(write_segmentor, tmp_path_factory) -> Path:
    """A folder with `tiny.py`, which merges by hq, `0.pth` and images `a` and `b`."""
    from mmseg_tome import compat

    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    return write_segmentor(tmp_path_factory.mktemp("tiny"), "hq", "ab")


@pytest.fixture(scope="session")
def load_tiny(hq_folder) -> Callable:
    """Load a predictor of `hq_folder`, each time a new one."""

    def load():
        import mmseg_tome

        return mmseg_tome.load(hq_folder / "tiny.py", weights=hq_folder / "0.pth", device="cpu")

    return load


@pytest.fixture(scope="session")
def join_test_data() -> Callable[[Path, Path], Path]:
    """Write a config like another, whose test data is that config's, twice, as a ConcatDataset."""

    def write(base: Path, path: Path) -> Path:
        path.write_text(
            f"_base_ = {str(base)!r}\n"
            "part = {{_base_.test_dataloader.dataset}}\n"
            "joined = dict(_delete_=True, type='ConcatDataset', datasets=[part, part])\n"
            "test_dataloader = dict(dataset=joined)\n"
        )
        return path

    return write


@pytest.fixture(scope="session")
def environment(repo) -> dict[str, str]:
    """Environment of a tool's process: this checkout first, this interpreter as `python`."""
    interpreter = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PYTHONPATH": str(repo),
        "PATH": f"{interpreter}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def run_tool(repo, environment):
    """Run a script of `tools/` (or any other) in a process of its own; its output is returned."""

    def run(script: str | Path, *args, cwd: Path = repo) -> str:
        command = [str(repo / "tools" / script), *map(str, args)]
        if str(script).endswith(".py"):
            command = [sys.executable, "-W", "ignore", *command]
        done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def untrained_weights():
    """The state dict of a config's model as it is built."""

    def build(config: Path) -> dict:
        from mmengine.config import Config
        from mmengine.registry import init_default_scope
        from mmseg.registry import MODELS

        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        return MODELS.build(cfg.model).state_dict()

    return build


@pytest.fixture
def mistake(repo, monkeypatch, capsys, tmp_path):
    """Run a tool in this process and return the one line with which it refuses."""
    monkeypatch.chdir(repo)
    monkeypatch.setenv("LOCAL_RANK", "0")

    def run(tool: str, *args) -> str:
        work_dir = tmp_path / "work"
        argv = [tool, *map(str, args[:1]), "--work-dir", str(work_dir), *map(str, args[1:])]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(repo / "tools" / tool), run_name="__main__")
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1
        assert lines[-1] == errors[0]
        assert not list(tmp_path.rglob("*.pth.tmp"))
        assert not list(work_dir.rglob("*.pth"))
        return errors[0]

    return run
