"""Decoding in torch against MMPose's codec, to the last bit."""

import numpy as np
import pytest
import torch

from mmseg_tome import compat

pytestmark = pytest.mark.skipif(not compat.has("mmpose"), reason="needs mmpose")

SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (3, 2), (3, 3), (4, 4), (13, 7), (24, 18), (96, 72)]


@pytest.fixture
def codec():
    from mmpose.codecs import MSRAHeatmap

    def build(hw, stride=(4, 4), **kwargs):
        height, width = hw
        size = (round(width * stride[1]), round(height * stride[0]))
        return MSRAHeatmap(input_size=size, heatmap_size=(width, height), sigma=2, **kwargs)

    return build


def compare(codec, heatmaps):
    from mmseg_tome.models.heatmap_decoding import decode_heatmaps

    keypoints, scores = decode_heatmaps(heatmaps, codec.scale_factor)
    batch, points = heatmaps.shape[:2]
    assert keypoints.shape == (batch, 1, points, 2)
    assert scores.shape == (batch, 1, points)
    for found, score, heatmap in zip(keypoints, scores, heatmaps.numpy(), strict=True):
        expected, expected_score = codec.decode(heatmap)
        assert (found.dtype, score.dtype) == (expected.dtype, expected_score.dtype)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(score, expected_score)
    return keypoints, scores


@pytest.mark.parametrize("hw", SIZES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_random_heatmaps_of_every_kind(codec, hw, seed):
    """Plain noise, few levels (ties), mostly or never positive, empty; in both memory formats."""
    torch.manual_seed(seed)
    batch, points = 1 + seed, (1, 5, 17, 20, 133)[seed]
    noise = torch.randn(batch, points, *hw)
    kinds = [noise, noise.round(), noise - 3, -noise.abs(), noise * 0, noise.abs() * 1e-42]
    for heatmaps in kinds:
        compare(codec(hw, (3.7, 5.1)), heatmaps)
        compare(codec(hw), heatmaps.contiguous(memory_format=torch.channels_last))
    compare(codec(hw), noise.double())


@pytest.mark.parametrize("hw", [(2, 3), (4, 5), (6, 5)], ids=str)
def test_a_peak_at_every_place_with_every_slope(codec, hw):
    """All borders: a maximum at each pixel, the higher neighbour on either side or on none."""
    height, width = hw
    heatmaps = torch.zeros(height * width, 4, height, width)
    for place, heatmap in enumerate(heatmaps):
        y, x = divmod(place, width)
        ramp_x, ramp_y = torch.arange(width) / 100, torch.arange(height)[:, None] / 100
        heatmap += torch.stack(
            [ramp_x + ramp_y, -ramp_x + ramp_y, ramp_x - ramp_y, 0 * ramp_x + 0 * ramp_y]
        )
        heatmap[:, y, x] = 1
    keypoints, scores = compare(codec(hw), heatmaps)
    assert (scores == 1).all()
    moved = np.abs(keypoints / 4 % 1)  # quarters of pixels
    assert set(np.unique(moved)) <= {0, 0.25, 0.75}
    assert (moved > 0).any() == (max(hw) > 3)
    assert (moved[:, :, 3] == 0).all()


def test_the_first_of_equal_maxima_and_none_without_a_positive_value(codec):
    heatmaps = torch.zeros(1, 3, 6, 8)
    heatmaps[0, 0, 2, 5] = heatmaps[0, 0, 2, 6] = heatmaps[0, 0, 4, 1] = 0.5
    heatmaps[0, 1, 3, 3] = -1
    heatmaps[0, 2] = -2
    keypoints, scores = compare(codec((6, 8)), heatmaps)
    assert keypoints[0, 0].tolist() == [[5.25 * 4, 2 * 4], [-4, -4], [-4, -4]]
    assert scores[0, 0].tolist() == [0.5, 0, -2]


def test_gradients_are_left_behind(codec):
    from mmseg_tome.models.heatmap_decoding import decode_heatmaps

    heatmaps = torch.rand(1, 2, 8, 8, requires_grad=True)
    keypoints, _ = decode_heatmaps(heatmaps * 2, codec((8, 8)).scale_factor)
    assert keypoints.shape == (1, 1, 2, 2)


def test_persons_do_not_share_memory_that_somebody_writes_to(codec):
    """MMPose moves keypoints into the image in place."""
    from mmseg_tome.models.heatmap_decoding import decode_heatmaps

    keypoints, scores = decode_heatmaps(torch.rand(2, 3, 8, 8), codec((8, 8)).scale_factor)
    before = scores.copy(), keypoints[1].copy()
    keypoints[0] += 100
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(keypoints[1], before[1])


def test_codecs_that_refine_in_other_ways_are_not_ours(codec):
    from mmpose.codecs import MegviiHeatmap, MSRAHeatmap, UDPHeatmap

    from mmseg_tome.models.heatmap_decoding import decodes

    class Own(MSRAHeatmap):
        pass

    size = dict(input_size=(32, 32), heatmap_size=(8, 8))
    assert decodes(codec((8, 8)))
    assert not decodes(codec((8, 8), unbiased=True))
    assert not decodes(UDPHeatmap(**size, sigma=2))
    assert not decodes(MegviiHeatmap(**size, kernel_size=11))
    assert not decodes(Own(**size, sigma=2))
    assert not decodes(None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_transfer_a_batch_on_a_gpu(codec):
    from mmseg_tome.models.heatmap_decoding import decode_heatmaps

    heatmaps = torch.randn(4, 17, 96, 72).round(decimals=1)
    expected = compare(codec((96, 72)), heatmaps)
    heatmaps = heatmaps.cuda()
    with torch.profiler.profile() as profile:
        found = decode_heatmaps(heatmaps, codec((96, 72)).scale_factor)
    copies = [event for event in profile.events() if "Memcpy DtoH" in event.name]
    assert len(copies) == 1
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
