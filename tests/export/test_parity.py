import numpy as np
import pytest

from mmseg_tome.export.parity import compare, decisions


def outputs() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 5, 20, 30)).astype(np.float32)


def test_rounding_holds():
    expected = outputs()
    found = compare(expected + np.float32(1e-6), expected, "segmentation")
    assert found.holds()
    assert found.near == 1


@pytest.mark.parametrize(("columns", "holds"), [(0, True), (1, True), (9, False)])
def test_a_few_moved_tokens_hold_many_do_not(columns, holds):
    expected = outputs()
    got = expected.copy()
    got[0, :, :4, :columns] = expected[0, ::-1, :4, :columns]
    assert compare(got, expected, "segmentation").holds() == holds


def test_a_wrong_scale_or_a_shift_does_not_hold():
    expected = outputs()
    assert not compare(1.1 * expected, expected, "segmentation").holds()
    assert not compare(np.roll(expected, 1, axis=3), expected, "segmentation").holds()


def test_what_is_no_number_does_not_hold():
    got, expected = outputs(), outputs()
    got[0, 0, 0, 0] = np.nan
    assert not compare(got, expected, "segmentation").holds()


def test_heatmaps_agree_by_their_peaks():
    got, expected = np.zeros((1, 4, 8, 6)), np.zeros((1, 4, 8, 6))
    expected[:, :, 2, 3] = got[:, :3, 2, 3] = 1
    got[0, 3, 5, 1] = 1
    assert compare(got, expected, "pose").agreement == 0.75


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected"):
        compare(outputs()[:1], outputs(), "segmentation")


@pytest.mark.parametrize("threshold", [None, 0.5, 0.9])
def test_a_single_channel_says_yes_or_no(threshold):
    """The largest of one channel is always the first: every position would agree."""
    a = np.random.default_rng(0).normal(size=(1, 1, 30, 40)).astype(np.float32)
    found = compare(-a, a, "segmentation", threshold)
    assert not found.holds()
    level = 0.3 if threshold is None else threshold
    same = (1 / (1 + np.exp(a)) > level) == (1 / (1 + np.exp(-a)) > level)
    assert found.agreement == pytest.approx(same.mean())
    assert found.agreement < 0.99
    assert compare(a, a, "segmentation", threshold).agreement == 1


@pytest.mark.parametrize(("threshold", "said"), [(0, True), (1, False), (-1, True), (2, False)])
def test_a_threshold_at_either_end(threshold, said):
    output = np.full((1, 1, 2, 3), 3.0, np.float32)
    assert (decisions(output, "segmentation", threshold) == said).all()
