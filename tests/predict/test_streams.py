"""Frames of cameras and streams, without either: OpenCV's capture is a fake."""

import threading
from itertools import count, islice

import cv2
import numpy as np
import pytest

from mmseg_tome.predict import streams
from mmseg_tome.predict.sources import UnreadableError
from mmseg_tome.predict.streams import read_stream


class Camera:
    """A capture whose frames come when the test lets them; each opening has so many.

    Attributes:
        openings: Frames that each further opening gives; None goes on for ever.
        live: Cameras that are open.
        asked: Frames that were asked for.
    """

    openings: list[int | None]
    live = 0
    asked = 0
    ready: threading.Semaphore
    over = False

    def __init__(self, address):
        assert address == 3
        self.frames = type(self).openings.pop(0) if self.openings else 0
        self.numbers = count()
        type(self).live += 1

    def get(self, what):
        assert what == cv2.CAP_PROP_FPS
        return 12.5

    def read(self):
        number = next(self.numbers)
        type(self).asked += 1
        if self.frames is not None and number >= self.frames:
            return False, None
        self.ready.acquire()
        return not self.over, np.full((4, 6, 3), number, np.uint8)

    def release(self):
        type(self).live -= 1


def soon(happened) -> bool:
    """Whether it happens within some seconds."""
    return any(happened() or threading.Event().wait(0.02) for _ in range(500))


@pytest.fixture
def camera(monkeypatch):
    class Mine(Camera):
        ready = threading.Semaphore(1)

    monkeypatch.setattr(cv2, "VideoCapture", Mine)
    monkeypatch.setattr(streams, "SECONDS", 0)
    yield Mine
    Mine.over = True  # a reader that waits would keep the process from ending
    Mine.ready.release(100)


@pytest.fixture
def read(camera):
    """Frames, each waited for before the next one comes, and what was said."""

    def run(openings: list[int | None], stopped=None) -> tuple:
        camera.openings, said = openings, []
        frames = read_stream(3, said.append, stopped or threading.Event())

        def one_by_one():
            for frame in frames:
                yield frame
                camera.ready.release()

        return one_by_one(), said

    return run


def test_frames_come_in_order_with_number_and_rate(read):
    frames, said = read([3])
    found = [(number, int(image.mean()), rate) for number, image, rate in frames]
    assert found == [(0, 0, 12.5), (1, 1, 12.5), (2, 2, 12.5)]
    assert said == [
        *(f"no more frames: it is opened again ({i} of 3)" for i in (1, 2, 3)),
        "the stream ended after 3 frames; 3 tries to open it again failed",
    ]


def test_a_stream_that_drops_goes_on(read):
    frames, said = read([2, 0, 1])
    assert [number for number, *_ in frames] == [0, 1, 2]
    assert said[:3] == [
        *(f"no more frames: it is opened again ({i} of 3)" for i in (1, 2)),
        "no more frames: it is opened again (1 of 3)",
    ]
    assert said[-1].startswith("the stream ended after 3 frames")


def test_frames_that_nobody_waited_for_are_passed_over(camera):
    camera.openings = [None]
    frames = read_stream(3, print, threading.Event())
    assert next(frames)[0] == 0
    camera.ready.release(50)  # while the network runs
    assert soon(lambda: camera.asked == 52)  # which waits
    assert next(frames)[0] == 50
    frames.close()


def test_a_camera_that_is_not_there(read):
    frames, said = read([])
    with pytest.raises(UnreadableError, match="cannot be opened, or gives no frames"):
        next(frames)
    assert said == []


def test_it_can_be_stopped_and_is_let_go(read, camera):
    stopped = threading.Event()
    frames, said = read([None], stopped)
    assert [number for number, *_ in islice(frames, 4)] == [0, 1, 2, 3]
    stopped.set()
    assert list(frames) == []
    assert said == []
    camera.ready.release(10)
    assert soon(lambda: camera.live == 0)
