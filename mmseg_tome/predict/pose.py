"""Keypoints of persons with a config's top-down model, on mmpose's functions for inference.

MMPose's inferencers do not fit. `Pose2DInferencer` wants `data_mode` and `dataset_type` at the top
of the config; takes the boxes of a detector of mmdet, or the whole image, and ignores boxes that it
is given; and knows no limit to the boxes that run together. The layer beneath has none of that.
"""

import copy
import functools
import time
from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmpose.apis import inference_topdown
from mmpose.structures import PoseDataSample
from mmpose.visualization import PoseLocalVisualizer

from mmseg_tome.checkpoints.model import load_model
from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.predict.boxes import Boxes
from mmseg_tome.predict.inputs import Item, check_channels
from mmseg_tome.predict.results import Prediction
from mmseg_tome.runtime.calibration import decide_before


class PosePredictor:
    """Predicts the keypoints of the persons in given boxes, or of one person that fills the image.

    Args:
        cfg: Config of a top-down model; stays as it is.
        checkpoint: File or address of its weights; None for random ones.
        device: Where to run, as `torch.device` takes it.
        batch_size: Boxes of an image that run together; the config's test batch size if None.
        opacity: Of the skeletons over the image, 0 to 1.
        boxes: Boxes of the images; None for whole images. An image that they do not list, or list
            no box of, has no person in it.
        threshold: Keypoints below this score are not drawn.

    Raises:
        CheckpointError: The checkpoint cannot be read, wants to run code, or does not fit.
        UserError: The model is not top-down, or has other keypoints than its data set.
    """

    task = "pose"
    batch_size = 1  # images; boxes are batched within an image

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | None,
        device: str,
        batch_size: int | None = None,
        opacity: float = 1.0,
        boxes: Boxes | None = None,
        threshold: float = 0.3,
    ):
        self.model = load_model(cfg, checkpoint, device)
        names = self.model.dataset_meta["keypoint_id2name"]
        self.keypoints = [names[i] for i in range(len(names))]
        self._visualizer = _Painter(name="infer")
        self._visualizer.set_dataset_meta(self.model.dataset_meta)
        self.boxes = boxes
        self.opacity = opacity
        self.threshold = threshold
        self._boxes_at_once = batch_size or cfg.test_dataloader.get("batch_size", 1)

    @property
    def meta(self) -> dict:
        """What results.json says once."""
        data = self.model.dataset_meta
        return dict(
            keypoint_names=self.keypoints,
            palette=np.asarray(data["keypoint_colors"]).tolist(),
            skeleton=[list(map(int, link)) for link in data["skeleton_links"]],
        )

    def one_box_at_a_time(self) -> "PosePredictor":
        """The same predictor, but for how many boxes run together."""
        other = copy.copy(self)
        other._boxes_at_once = 1
        return other

    def predict(self, items: Sequence[Item]) -> list[Prediction]:
        """Find the keypoints in each image.

        Raises:
            ModelInputError: The config's input is too small for the network.
        """
        return [self._predict(item) for item in items]

    def _predict(self, item: Item) -> Prediction:
        start = time.perf_counter()
        check_channels(item, image_channels(self.model))
        boxes = self._boxes_of(item)
        persons = self._run(item.image, boxes)
        milliseconds = (time.perf_counter() - start) * 1000
        found = [
            dict(
                bbox=_rounded(box[:4]),
                bbox_score=round(float(box[4]), 4),
                keypoints=_rounded(person.keypoints[0]),
                keypoint_scores=_rounded(person.keypoint_scores[0], 4),
            )
            for box, person in zip(boxes, persons, strict=True)
        ]
        return Prediction(
            result=dict(ms=round(milliseconds, 2), instances=found),
            overlay=self._draw(item.picture, boxes, persons),
        )

    def _boxes_of(self, item: Item) -> np.ndarray:
        """`[N, 5]` float32: x, y, w, h, score."""
        if self.boxes is None:
            height, width = item.image.shape[:2]
            return np.array([[0, 0, width, height, 1]], np.float32)
        boxes = self.boxes.of(item.source.path)
        return np.zeros((0, 5), np.float32) if boxes is None else boxes

    def _run(self, image: np.ndarray, boxes: np.ndarray) -> list[InstanceData]:
        """One person's keypoints `[1, K, 2]` and scores `[1, K]` for each box."""
        persons = []
        for first in range(0, len(boxes), self._boxes_at_once):
            part = boxes[first : first + self._boxes_at_once, :4]
            run = functools.partial(inference_topdown, self.model, image, part, bbox_format="xywh")
            decide_before(run, self.model)
            persons += [sample.pred_instances for sample in run()]
        return persons

    def _draw(
        self, image: np.ndarray, boxes: np.ndarray, persons: list[InstanceData]
    ) -> np.ndarray:
        if not persons:
            return image
        painter = self._visualizer
        # MMPose's sizes on COCO's images, which are 640 pixels long; larger on larger ones.
        painter.radius = max(2, round(max(image.shape[:2]) / 210))
        painter.line_width = max(1, painter.radius // 3)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], axis=1)
        sample = PoseDataSample(
            pred_instances=InstanceData(
                keypoints=np.concatenate([person.keypoints for person in persons]),
                keypoints_visible=np.concatenate([person.keypoint_scores for person in persons]),
                bboxes=corners,
            )
        )
        painted = painter.add_datasample(
            "",
            np.ascontiguousarray(image[..., ::-1]),
            sample,
            draw_gt=False,
            draw_bbox=self.boxes is not None,
            kpt_thr=self.threshold,
        )
        painted = np.ascontiguousarray(painted[..., ::-1])
        return cv2.addWeighted(image, 1 - self.opacity, painted, self.opacity, 0)


class _Painter(PoseLocalVisualizer):
    """MMPose's, which gives radii as arrays, where numpy 2.5 takes numbers only."""

    def draw_circles(self, center, radius, **kwargs):
        """One circle; its radius is a number or an array of one."""
        return super().draw_circles(center, float(np.ravel(radius)[0]), **kwargs)


def _rounded(values: np.ndarray, digits: int = 2) -> list:
    """A list that a person can read; hundredths of pixels are enough."""
    return np.asarray(values, float).round(digits).tolist()
