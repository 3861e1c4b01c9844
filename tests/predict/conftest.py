"""A server of images and streams, and a camera that is none."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

FRAMES = 5


def picture(number: int) -> np.ndarray:
    return np.full((40, 60, 3), 40 * number, np.uint8)


class _Handler(BaseHTTPRequestHandler):
    """An image, a video and TIFF pages under some names; `/live` is a stream of some frames."""

    def do_GET(self) -> None:
        content = cv2.imencode(".png", picture(2))[1].tobytes()
        if self.path.startswith("/photo"):
            self._answer("image/png", content)
        elif self.path == "/clip":
            self._answer("video/x-msvideo", self.server.clip)
        elif self.path == "/pages.tif":
            pages = [cv2.cvtColor(picture(number), cv2.COLOR_BGR2GRAY) for number in range(FRAMES)]
            self._answer("image/tiff", cv2.imencodemulti(".tif", pages)[1].tobytes())
        elif self.path == "/page":
            self._answer("text/html", b"<p>")
        elif self.path == "/private":
            self.server.authorization = self.headers["Authorization"]
            self._answer("image/png", content)
        elif self.path == "/live":
            self._stream()
        else:
            self.send_error(404)

    def _answer(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(FRAMES):
            content = cv2.imencode(".jpg", picture(number))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            self.wfile.write(head.encode() + content + b"\r\n")

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[str]:
    """Its address."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    running.daemon_threads = True
    path = tmp_path_factory.mktemp("served") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 7, (60, 40))
    for number in range(FRAMES):
        writer.write(picture(number))
    writer.release()
    running.clip = path.read_bytes()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
