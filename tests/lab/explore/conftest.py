"""A tiny model of either task, and images for it."""

from pathlib import Path

import numpy as np
import pytest

from mmseg_tome import compat
from mmseg_tome.lab.demo.dataset import scene_rng
from mmseg_tome.lab.demo.scene import render_scene


@pytest.fixture(scope="session")
def tiny(write_segmentor, tmp_path_factory) -> Path:
    """A folder with `tiny.py`, which merges by hq, and `0.pth`."""
    if not compat.has("mmseg"):
        pytest.skip("needs mmseg")
    return write_segmentor(tmp_path_factory.mktemp("explore"), "hq", "a")


@pytest.fixture(scope="session")
def street() -> np.ndarray:
    """`[128, 256, 3]` uint8, RGB."""
    return render_scene(scene_rng(0, "val", 0), 128).image


@pytest.fixture(scope="session")
def explorer(tiny):
    import mmseg_tome
    from mmseg_tome.lab.explore.comparing import Explorer

    predictor = mmseg_tome.load(tiny / "tiny.py", weights=tiny / "0.pth", device="cpu")
    return Explorer(predictor, "tiny", longest=256)
