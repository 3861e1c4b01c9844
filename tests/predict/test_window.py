import cv2
import numpy as np
import pytest

from mmseg_tome.errors import UserError
from mmseg_tome.predict.window import Window

PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.fixture
def display(monkeypatch):
    """A display, and what was done there; keys are pressed as the test says."""
    done, keys = [], []
    monkeypatch.setenv("DISPLAY", ":9")
    for name in ("namedWindow", "imshow", "destroyAllWindows"):
        monkeypatch.setattr(cv2, name, lambda *args, name=name: done.append(name))
    monkeypatch.setattr(cv2, "waitKey", lambda milliseconds: keys.pop(0))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    return done, keys


def test_until_q_or_escape(display):
    done, keys = display
    keys += [-1, ord("x"), ord("q"), 27]
    window = Window()
    assert [window.show(PICTURE, 1) for _ in range(4)] == [True, True, False, False]
    window.close()
    assert done == ["namedWindow", *["imshow"] * 4, "destroyAllWindows"]


def test_until_it_is_closed(display, monkeypatch):
    display[1].append(-1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 0.0)
    assert not Window().show(PICTURE, 1)


def test_without_a_display(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--show needs a display"):
        Window()


def test_an_opencv_without_windows(display, monkeypatch):
    def fail(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", fail)
    with pytest.raises(UserError, match="opencv-python in place of opencv-python-headless"):
        Window()
