"""A tiny model of either task, and images for it."""

import numpy as np
import pytest

from mmseg_tome.lab.demo.dataset import scene_rng
from mmseg_tome.lab.demo.scene import render_scene


@pytest.fixture(scope="session")
def street() -> np.ndarray:
    """`[128, 256, 3]` uint8, RGB."""
    return render_scene(scene_rng(0, "val", 0), 128).image


@pytest.fixture(scope="session")
def explorer(load_tiny):
    from mmseg_tome.lab.explore.comparing import Explorer

    return Explorer(load_tiny(), "tiny", longest=256)
