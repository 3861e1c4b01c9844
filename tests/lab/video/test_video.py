import numpy as np
import pytest

pytest.importorskip("mmseg")

from mmseg_tome.lab.video.__main__ import flicker, shown, views  # isort: skip
import itertools

STILL = (1.0, 0.0, 0.0)


@pytest.fixture
def scene() -> np.ndarray:
    """Classes in blocks of 24 pixels."""
    blocks = np.random.default_rng(0).integers(0, 11, (8, 10), np.uint8)
    return blocks.repeat(24, 0).repeat(24, 1)


@pytest.mark.parametrize("motion", ["pan 2", "pan 8", "zoom 70"])
def test_a_camera_that_moves_is_no_flicker(scene, motion):
    way = views(motion, 240, 192, 5)
    assert len(way) == 5
    # Interpolated borders of blocks are classes of their own.
    frames = [shown(scene * 20, view) // 20 for view in way]
    moved = [flicker(*pair) for pair in zip(frames, frames[1:], way, way[1:], strict=False)]
    still = [flicker(a, b, STILL, STILL) for a, b in itertools.pairwise(frames)]
    assert max(moved) < 0.1
    assert np.mean(moved) < np.mean(still) / 2


def test_flicker_is_the_share_that_changes(scene):
    changed = scene.copy()
    changed[:48] += 1
    assert flicker(scene, changed, STILL, STILL) == pytest.approx(48 / 192)


def test_a_pan_stays_on_the_image():
    for scale, x, y in views("pan 8", 480, 360, 16):
        assert 0 <= x <= 480 * (1 - scale)
        assert 0 <= y <= 360 * (1 - scale)
