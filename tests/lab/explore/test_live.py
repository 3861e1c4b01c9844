"""The camera's section of the page, without a page."""

from math import gcd

from mmseg_tome.lab.explore import live


def test_frames_that_are_checked_are_of_both_kinds():
    """Where K divides the distance, all of them would be frames that match."""
    assert [every for every in range(2, live.MOST + 1) if gcd(every, live.CHECKED) > 1] == []
