import numpy as np

from mmseg_tome.visualization.differences import BEFORE, MARK, grey_out, mark_changes, mark_shifts


def test_changed_pixels_are_marked_and_all_others_grey():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    before = image.copy()
    changed = rng.random((20, 30)) < 0.3
    painted = mark_changes(image, changed)
    assert (painted[changed] == MARK).all()
    np.testing.assert_array_equal(painted[~changed], grey_out(image)[~changed])
    assert (np.ptp(painted[~changed], axis=-1) == 0).all()
    np.testing.assert_array_equal(image, before)


def test_thin_lines_stay_visible_in_a_smaller_picture():
    changed = np.zeros((400, 600), bool)
    changed[200] = True
    painted = mark_changes(np.zeros((100, 150, 3), np.uint8), changed).astype(int)
    coloured = np.ptp(painted, axis=-1) > 60
    assert coloured[50].all()
    assert not np.delete(coloured, 50, axis=0).any()


def test_keypoints_are_marked_where_they_were_and_are():
    image = np.full((200, 300, 3), 90, np.uint8)
    before, after = np.array([[50, 60], [200, 100]]), np.array([[80, 60], [200, 100]])
    painted = mark_shifts(image, before, after, np.array([True, False]))
    assert (painted[60, 80] == MARK).all()
    assert np.abs(painted[60, 65].astype(int) - MARK).max() < 20  # the line between
    assert (painted == BEFORE).all(axis=-1).any()
    assert (painted[80:] == grey_out(image)[80:]).all()  # one is not to be shown
