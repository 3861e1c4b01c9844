"""The page's camera: the prediction of each newest frame, matched on every K-th of them.

Gradio posts frames as they come and keeps the newest while one is run: the others are dropped.
"""

from __future__ import annotations

import base64
import io
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mmseg_tome.errors import UserError
from mmseg_tome.lab.explore.comparing import Explorer
from mmseg_tome.lab.explore.pictures import read_photo
from mmseg_tome.lab.explore.settings import Merging

if TYPE_CHECKING:
    import gradio as gr

MOST = 16
"""Frames from one that matches to the next, at most."""
SHOWN = 20
"""Frames of which the page gives a median and a rate."""
CHECKED = 17
"""From one frame that is run without merging, too, to the next: has no factor in common with any K.

Else frames of some K that are checked would all be frames that match.
"""
WIDTH = 640
"""Of frames in pixels, if the camera has it."""
PERIOD = 0.1
"""Seconds from one frame that a browser sends to the next."""
PAUSE = 2.0
"""Seconds without a frame after which a video is a new one."""
TURN = 60
"""Seconds after which a camera that waits has its turn, and the one before it waits."""
FRAME = "data:image/jpeg;base64,"
NAMES = """() => {
  const place = document.querySelector("#live");
  const dress = () => {
    for (const button of place.querySelectorAll("#camera button[aria-label='capture photo']"))
      button.removeAttribute("aria-label");  // it has a text, which changes: record, stop
    for (const video of place.querySelectorAll("#camera video"))
      video.ariaLabel = "the camera's picture";
  };
  if (place.dressed) return;
  place.dressed = new MutationObserver(dress);
  place.dressed.observe(place, {childList: true, subtree: true});
  dress();
}"""
"""Gives what Gradio shows of a camera the names that it lacks."""
STOP = """() => {
  const running = "#camera :is([title='stop recording'], [title='spinner'])";
  document.querySelector(running)?.closest("button").click();
}"""


@dataclass(eq=False)
class _Video:
    """What the page knows of a visitor's camera, from its start or a change of its settings on."""

    settings: tuple[Merging, int]
    frames: int = 0
    milliseconds: deque[float] = field(default_factory=lambda: deque(maxlen=SHOWN))
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=SHOWN + 1))
    agreement: float | None = None

    def goes_on(self, settings: tuple[Merging, int]) -> bool:
        """Whether a frame that comes now is of this video."""
        return settings == self.settings and time.monotonic() - self.ends[-1] < PAUSE

    def add(self, milliseconds: float, agreement: float | None) -> None:
        """Count a frame that was run."""
        self.frames += 1
        self.milliseconds.append(milliseconds)
        self.ends.append(time.monotonic())
        self.agreement = self.agreement if agreement is None else agreement

    def __str__(self) -> str:
        median, among = statistics.median(self.milliseconds), len(self.milliseconds)
        said = f"Frame {self.frames}: {median:.0f} ms of the network (median of {among})"
        if len(self.ends) > 1:
            rate = (len(self.ends) - 1) / max(self.ends[-1] - self.ends[0], 1e-9)
            said += f", {rate:.1f} frames a second"
        if self.agreement is not None:
            said += f", {100 * self.agreement:.2f} % of the pixels as without merging"
        return said


class Live:
    """A section of the page with a camera.

    Args:
        explorer: What runs.
        tome_cfg: What the page's controls stand for.
        tell: Makes a line of a sentence, which may say what is wrong.
    """

    def __init__(
        self,
        explorer: Explorer,
        tome_cfg: Callable[[Sequence], Merging],
        tell: Callable[[str, bool], str],
    ):
        self.explorer, self.tome_cfg, self.tell = explorer, tome_cfg, tell

    def add(self, gr, controls: Sequence[gr.Component]) -> None:
        """Add the section here, to merge as the controls say."""
        with gr.Accordion("Live camera", open=False, elem_id="live") as section:
            every = gr.Slider(
                1, MOST, 1, step=1, label="Match tokens on every K-th frame", elem_id="every",
                info="Frames between merge as the last one that matched: less work, but worse "
                "where the picture moved.",
            )  # fmt: skip
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    camera = _make_camera(gr, self.explorer.longest)
                with gr.Column(scale=3, min_width=300):
                    picture = _make_picture(gr)
                    numbers = gr.HTML("Start the camera.", elem_id="live-numbers", padding=False)
                    said = gr.HTML(elem_id="live-status", padding=False)
            video = gr.State(None, time_to_live=60)  # a `_Video`
        section.expand(None, js=NAMES, api_visibility="private")
        section.collapse(None, js=STOP, api_visibility="private")
        camera.stream(
            self._show, [camera, every, video, *controls], [picture, numbers, said, video],
            stream_every=PERIOD, time_limit=TURN, concurrency_limit=1, concurrency_id="camera",
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def _show(
        self, frame: np.ndarray | UserError | None, every: int, video: _Video | None, *controls
    ) -> tuple:
        """What the section shows of a frame: picture, numbers, a sentence, and the video."""
        import gradio as gr

        if frame is None:
            return (gr.skip(),) * 4
        try:
            if isinstance(frame, UserError):
                raise frame
            settings = self.tome_cfg(controls), int(every)
            if video is None or not video.goes_on(settings):
                video = _Video(settings)
            check = video.frames % CHECKED == 0
            found = self.explorer.follow(frame, *settings, video, check)
        except UserError as error:
            return None, "", self.tell(str(error), True), None
        result = found.result
        video.add(result["ms"], result["agreement"])
        note = ""
        if settings[0] is None:
            note = "Nothing merges: choose a preset."
        elif every > 1 and not result["saves"]:
            note = "This merges fixed windows: nothing is matched on any frame."
        return _jpeg(found.overlay), str(video) + ".", self.tell(note, False), video


def _make_camera(gr, longest: int) -> gr.Image:
    """Gradio's camera, whose frames come within the wish, as JPEG in base64, and from nowhere else.

    Neither a path nor an address is opened.
    """
    camera = gr.Image(
        label="Camera", sources=["webcam"], streaming=True, elem_id="camera", height=300,
        webcam_options=gr.WebcamOptions(constraints={"video": {"width": {"ideal": WIDTH}}}),
    )  # fmt: skip

    def preprocess(payload) -> np.ndarray | UserError | None:
        if payload is None:
            return None
        try:
            if not (payload.url or "").startswith(FRAME):
                raise UserError("this is no frame of a camera")
            return read_photo(io.BytesIO(base64.b64decode(payload.url[len(FRAME) :])), longest)
        except UserError as error:
            return error
        except ValueError:
            return UserError("this is no frame of a camera")

    async def move_nothing(place) -> None:
        raise gr.Error("a camera sends frames, no files")

    camera.preprocess, camera.async_move_resource_to_block_cache = preprocess, move_nothing
    return camera


def _make_picture(gr) -> gr.Image:
    """Gradio's image, to be given data URLs: frames are not written to files."""
    from gradio.data_classes import ImageData

    picture = gr.Image(
        label="Prediction", interactive=False, buttons=["fullscreen"], elem_id="live-picture",
        height=300, alt_text="the camera's newest frame with its prediction",
    )  # fmt: skip
    picture.postprocess = lambda url: None if url is None else ImageData(url=url)
    return picture


def _jpeg(picture: np.ndarray) -> str:
    """A picture, BGR, as a data URL."""
    _, content = cv2.imencode(".jpg", picture)
    return FRAME + base64.b64encode(content).decode()
