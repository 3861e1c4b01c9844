"""Frames of cameras and network streams: always the newest, whatever the network takes."""

import threading
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from mmseg_tome.predict.sources import UnreadableError

TRIES = 3
"""To open a stream again that gives no more frames."""
SECONDS = 2.0
"""Before each of them."""
TIMEOUT = 10_000
"""Milliseconds that a stream may take to open, or to its next frame."""


def read_stream(
    address: str | int, say: Callable[[str], None], stopped: threading.Event
) -> Iterator[tuple[int, np.ndarray, float]]:
    """The newest frame each time that one is asked for: frames in between are passed over.

    A stream that gives no more frames is opened again a few times, and has ended if that fails.

    Args:
        address: What OpenCV opens: a URL, or a camera's number.
        say: Is told of a stream that broke off.
        stopped: Ends it.

    Yields:
        Number of the frame since the start, from 0; the frame, `[H, W, 3]` uint8, BGR; and how many
        the stream announces a second.

    Raises:
        UnreadableError: It never gave a frame.
    """
    first = failures = 0
    while not stopped.is_set():
        connection = _Connection(address)
        frames = 0
        try:
            for number, image in connection.frames(stopped):
                failures, frames = 0, number + 1
                yield first + number, image, connection.rate
        finally:
            connection.closed.set()
        first += frames
        if stopped.is_set():
            return
        if first == 0:
            raise UnreadableError("it cannot be opened, or gives no frames")
        if failures == TRIES:
            say(f"the stream ended after {first} frames; {TRIES} tries to open it again failed")
            return
        failures += 1
        say(f"no more frames: it is opened again ({failures} of {TRIES})")
        stopped.wait(SECONDS)


class _Connection(threading.Thread):
    """Reads a stream as fast as it comes, in a thread, and keeps the newest frame."""

    def __init__(self, address: str | int):
        super().__init__()  # not a daemon: one that is in OpenCV at the end aborts the process
        self.rate = 25.0
        self.closed = threading.Event()
        self._address = address
        self._changed = threading.Condition()
        self._count, self._image, self._ended = 0, None, False
        self.start()

    def run(self) -> None:
        video = _open(self._address)
        rate = video.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else self.rate
        while not self.closed.is_set():
            good, image = video.read()
            if not good:
                break
            with self._changed:
                self._count, self._image = self._count + 1, image
                self._changed.notify()
        video.release()
        with self._changed:
            self._ended = True
            self._changed.notify()

    def frames(self, stopped: threading.Event) -> Iterator[tuple[int, np.ndarray]]:
        """The newest frame that was not given yet, and its number."""
        given = 0
        while not stopped.is_set():
            with self._changed:
                # Short waits, so that Ctrl-C is seen.
                self._changed.wait_for(lambda: self._count > given or self._ended, 0.2)  # noqa: B023
                count, image, ended = self._count, self._image, self._ended
            if count > given:
                given = count
                yield count - 1, image
            elif ended:
                return


def _open(address: str | int) -> cv2.VideoCapture:
    if isinstance(address, int):
        return cv2.VideoCapture(address)
    limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
    options = [value for limit in limits for value in (limit, TIMEOUT)]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, options)
