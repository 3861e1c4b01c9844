"""One image without and with merging: pictures, groups, numbers. Nothing here knows of a page."""

from __future__ import annotations

import hashlib
import statistics
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mmengine.registry import DefaultScope

from mmseg_tome.config_datasets import find_test_pipeline
from mmseg_tome.errors import UserError
from mmseg_tome.lab.explore.pictures import GroupsView
from mmseg_tome.lab.explore.settings import Merging
from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.predict.inputs import Item, Source
from mmseg_tome.predict.load import Predictor
from mmseg_tome.predict.results import Prediction
from mmseg_tome.runtime.frame_reuse import FrameReuse
from mmseg_tome.runtime.graphs import suspended
from mmseg_tome.runtime.merging_switch import NothingMergesError, set_merging, without_merging
from mmseg_tome.visualization.capture import record_passes
from mmseg_tome.visualization.comparison import (
    PoseComparison,
    SegmentationComparison,
    box_padding,
)
from mmseg_tome.visualization.painting import fit
from mmseg_tome.visualization.stage_maps import StageMap, network_image, read_stages

OPACITY = 0.6  # of the classes' colours
REMEMBERED = 16
"""Images whose unmerged prediction is kept."""
SECONDS, ROUNDS = 1.0, 5
"""How long and how often both are timed, at most; once each in any case."""
RESIZES = ("Resize", "ResizeShortestEdge")
"""Steps of a test pipeline that the page does itself."""
THRESHOLD = 0.3
"""Keypoints below this score are left out, as in predictors."""

Tell = Callable[[float, str], None]
"""Is told what share of the work is done, and what comes next."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What merging does to one image. Pictures are `[H, W, 3]` uint8, RGB, all of one size.

    Attributes:
        tome_cfg: How it merged.
        image: The image; of pose, what the network sees of the person.
        plain: The prediction without merging over it.
        merged: The same with merging.
        difference: Where they differ: pixels whose class changed, or how far keypoints moved.
        groups: For each sequence that merges, by its label, such as "stage3_q".
        stages: Number of the network's stages.
        agreement: Segmentation: share of the pixels that keep their class; None for pose.
        shift: Pose: mean distance in pixels of keypoints; None for segmentation, or if none is
            above the threshold.
        summary: What changes, in words.
        legend: Names and colours, RGB.
    """

    tome_cfg: Merging
    image: np.ndarray
    plain: np.ndarray
    merged: np.ndarray
    difference: np.ndarray
    groups: dict[str, GroupsView]
    stages: int
    agreement: float | None
    shift: float | None
    summary: str
    legend: list[tuple[str, tuple[int, int, int]]]

    @property
    def kept(self) -> list[tuple[str, int, int]]:
        """Name, tokens after merging and tokens before, of each sequence that merges."""
        stages = [view.stage for view in self.groups.values()]
        return [(stage.name, stage.kept, stage.total) for stage in stages]


class Times(NamedTuple):
    """Milliseconds an image without and with merging, medians of `rounds` in turns."""

    plain: float
    merged: float
    rounds: int


class Explorer:
    """Compares a model without and with merging on one image after the other.

    Segmentation runs at the image's own size, whatever the config's test pipeline resizes to; a
    pose model takes the image for one person.

    Args:
        predictor: Of `mmseg_tome.load`.
        name: Of the model, to be shown.
        longest: Longest side of an image in pixels; larger ones are reduced to it.

    Attributes:
        notes: What a visitor should know of the model, a sentence or nothing.

    Raises:
        UserError: The model merges nothing, or takes other than colour images.
    """

    def __init__(self, predictor: Predictor, name: str, longest: int = 1024):
        self.predictor, self.name, self.longest = predictor, name, longest
        self.model, self.task = predictor.model, predictor.task
        if not hasattr(self.model.backbone, "attentions"):
            raise UserError(
                f"the backbone of {name}, {type(self.model.backbone).__name__}, merges no tokens: "
                "it must be one of mmseg_tome's"
            )
        channels = image_channels(self.model)
        if channels != 3:
            raise UserError(f"{name} takes images of {channels} channels: the page has colour ones")
        made_up = [f"class {i}" for i in range(len(predictor.names))]
        self.notes = ""
        if self.task == "segmentation" and list(predictor.names) == made_up:
            self.notes = "The model names no classes: they are numbered."
        self.stages = len(self.model.backbone.attentions())
        self._scope = "mmpose" if self.task == "pose" else "mmseg"
        if self.task == "segmentation":
            steps = find_test_pipeline(self.model.cfg)
            kept = [step for step in steps if step["type"].rpartition(".")[2] not in RESIZES]
            self.model.cfg.test_pipeline = kept
        self._plain: OrderedDict[bytes, Prediction] = OrderedDict()
        self._one_at_a_time = threading.Lock()  # merging is a state of the model
        self._video: tuple | None = None  # what is followed, until anything else is run
        self._reuse: FrameReuse | None = None

    @property
    def merging(self) -> object:
        """The `tome_cfg` that the config or `--preset` gave."""
        return self.model.cfg.model.backbone.get("tome_cfg")

    def compare(
        self, image: np.ndarray, tome_cfg: Merging, tell: Tell = lambda share, what: None
    ) -> Comparison:
        """Run an image without and with merging by the same weights.

        The unmerged prediction is remembered: other merging of the same image needs none.

        Args:
            image: `[H, W, 3]` uint8, RGB.
            tome_cfg: How to merge.
            tell: See `Tell`.

        Raises:
            TomeConfigError: `tome_cfg` cannot be read; the model is left as it was.
            ModelInputError: The image is too small for the network.
        """
        image = self._reduced(image)
        with self._running(image):
            tell(0.1, "predicting with merging")
            set_merging(self.model, tome_cfg)
            with record_passes(self.model) as passes:
                merged = self._predict(image)
            if self._key(image) not in self._plain:
                tell(0.4, "predicting without merging")
            plain = self._without_merging(image)
        tell(0.8, "drawing")
        item = Item(Source(Path("image"), "image", False), image[..., ::-1])
        agreement = shift = None
        if self.task == "pose":
            padding = box_padding(self.model.cfg)
            compared = PoseComparison(item, plain, merged, passes, padding, THRESHOLD)
            shift = _mean_shift(plain, merged)
        else:
            named = (self.predictor.names, self.predictor.palette)
            compared = SegmentationComparison(item, plain, merged, passes, *named)
            agreement = float((plain.labels == merged.labels).mean())
        seen = network_image(compared.passes, 0, self.model.data_preprocessor)
        window = tuple(compared.passes[0].image.shape[2:])
        maps = read_stages(compared.passes)
        size = seen.shape[:2] if self.task == "pose" else image.shape[:2]
        scale = self.longest / max(size)
        panels = compared.panels(tuple(max(1, round(side * scale)) for side in size))
        return Comparison(
            tome_cfg,
            *(panel.picture for panel in panels),
            {each.label: GroupsView(_lighter(each), seen, window) for each in maps},
            self.stages,
            agreement,
            shift,
            compared.summary,
            compared.legend,
        )

    def measure(self, image: np.ndarray, tome_cfg: Merging) -> Times:
        """Time an image without and with merging, in turns.

        Args and what it raises are those of `compare`.
        """
        image = self._reduced(image)
        times: tuple[list[float], list[float]] = ([], [])
        with self._running(image):
            start = time.perf_counter()
            while True:
                for merging, found in zip((None, tome_cfg), times, strict=True):
                    set_merging(self.model, merging)
                    found.append(self._predict(image).result["ms"])
                rounds = len(times[0])
                one_more = (time.perf_counter() - start) * (rounds + 1) / rounds
                if rounds == ROUNDS or one_more > SECONDS:
                    return Times(*map(statistics.median, times), rounds)

    def follow(
        self, frame: np.ndarray, tome_cfg: Merging, every: int, visitor: object, check: bool = False
    ) -> Prediction:
        """Run a frame of a video with merging; see `FrameReuse` for what is kept between frames.

        Tokens are matched anew once anything but the next frame was run: an image, a frame of
        another visitor or size, other merging.

        Args:
            frame: `[H, W, 3]` uint8, RGB.
            tome_cfg: How to merge.
            every: Match on every `every`-th frame.
            visitor: Whose video it is.
            check: Segmentation: run the frame without merging, too.

        Returns:
            The prediction; `result` has `ms`, `saves` (whether `every` changes anything) and
            `agreement` (share of the pixels that keep their class; None if it was not checked).

        Raises:
            TomeConfigError: `tome_cfg` cannot be read; the model is left as it was.
            ModelInputError: The frame is too small for the network.
            UserError: `every` is less than 1.
        """
        frame = self._reduced(frame)
        video = (visitor, tome_cfg, every, frame.shape)
        with self._running(frame, video):
            if self._video is None:
                set_merging(self.model, tome_cfg)
                with suppress(NothingMergesError):
                    self._reuse = FrameReuse(self.model, every)
                self._video = video
            reuse, agreement = self._reuse, None
            if reuse is not None:
                reuse.before_frame(reuse)
            found = self._predict(frame)
            if check and reuse is not None and self.task == "segmentation":
                with without_merging(self.model):
                    agreement = float((self._predict(frame).labels == found.labels).mean())
        saves = reuse is not None and reuse.saves
        return replace(found, result=dict(found.result, saves=saves, agreement=agreement))

    @contextmanager
    def _running(self, image: np.ndarray, video: tuple | None = None) -> Iterator[None]:
        """The model for one image at a time, in a scope of its own.

        Where one window holds the whole image it runs as a whole, which costs less. What is kept of
        a video goes, unless the image is its next frame.
        """
        scope = DefaultScope.overwrite_default_scope(self._scope)  # another model may have set its
        with self._one_at_a_time, scope, ExitStack() as stack:
            if video is None:
                stack.enter_context(suspended(self.model))
            if video is None or video != self._video:
                if self._reuse is not None:
                    self._reuse.remove()
                self._reuse = self._video = None
            given = self.model.test_cfg
            crop = given.get("crop_size") if given.get("mode") == "slide" else None
            if crop and all(np.less_equal(image.shape[:2], crop)):
                self.model.test_cfg = type(given)({**given, "mode": "whole"})
            try:
                yield
            finally:
                self.model.test_cfg = given

    def _reduced(self, image: np.ndarray) -> np.ndarray:
        scale = self.longest / max(image.shape[:2])
        if scale >= 1:
            return image
        return fit(image, tuple(max(1, round(side * scale)) for side in image.shape[:2]))

    def _without_merging(self, image: np.ndarray) -> Prediction:
        """The unmerged prediction, of an image that came before the one of then."""
        key = self._key(image)
        if key not in self._plain:
            set_merging(self.model, None)
            with record_passes(self.model):  # by the same arithmetic as with merging
                self._plain[key] = self._predict(image)
        self._plain.move_to_end(key)
        while len(self._plain) > REMEMBERED:
            self._plain.popitem(last=False)
        return self._plain[key]

    @staticmethod
    def _key(image: np.ndarray) -> bytes:
        return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()

    def _predict(self, image: np.ndarray) -> Prediction:
        """The prediction of an image, RGB; `result["ms"]` is without reading and painting it."""
        bgr = np.ascontiguousarray(image[..., ::-1])
        if self.task == "pose":
            found = self.predictor.predict(bgr)
            result = dict(ms=found.milliseconds, instances=found.instances)
            return Prediction(result=result, overlay=found.overlay)
        from mmseg.apis import inference_model

        start = time.perf_counter()
        labels = inference_model(self.model, bgr).pred_sem_seg.data[0].cpu().numpy()
        ms = (time.perf_counter() - start) * 1000
        colours = self.predictor.palette[:, ::-1][labels]
        overlay = cv2.addWeighted(bgr, 1 - OPACITY, colours, OPACITY, 0)
        return Prediction(result=dict(ms=ms), overlay=overlay, labels=labels)


def _lighter(stage: StageMap) -> StageMap:
    """The same in half the memory: a page keeps one of each visitor."""
    return replace(stage, groups=stage.groups.astype(np.int32))


def _mean_shift(plain: Prediction, merged: Prediction) -> float | None:
    """Mean distance of the keypoints that both are sure of, in pixels of the image."""
    (before,), (after,) = (each.result["instances"] for each in (plain, merged))
    scores = np.minimum(before["keypoint_scores"], after["keypoint_scores"])
    moved = np.subtract(before["keypoints"], after["keypoints"])[scores >= THRESHOLD]
    return float(np.linalg.norm(moved, axis=1).mean()) if len(moved) else None
