"""A window in which predictions are looked at as they come."""

import os
import sys

import cv2
import numpy as np

from mmseg_tome.errors import UserError

TITLE = "mmseg-tome"
ESCAPE = 27


class Window:
    """Shows one picture after the other.

    Raises:
        UserError: There is no display, or OpenCV is one that opens no windows.
    """

    def __init__(self):
        displays = ("DISPLAY", "WAYLAND_DISPLAY")
        # Without this, some of OpenCV's window systems end the process.
        if sys.platform.startswith("linux") and not any(map(os.environ.get, displays)):
            raise UserError("--show needs a display: neither DISPLAY nor WAYLAND_DISPLAY is set")
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise UserError(
                "--show needs an OpenCV with windows: install opencv-python in place of "
                "opencv-python-headless"
            ) from None

    def show(self, picture: np.ndarray, milliseconds: int) -> bool:
        """Show `[H, W, 3]` uint8, BGR, for at least so long; whether the user wants to see more."""
        cv2.imshow(TITLE, picture)
        pressed = cv2.waitKey(milliseconds) & 0xFF
        return pressed not in (ESCAPE, ord("q")) and _is_open()

    def close(self) -> None:
        cv2.destroyAllWindows()


def _is_open() -> bool:
    return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1
