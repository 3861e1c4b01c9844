"""Segmentation of images with a config's model, on mmseg's inferencer."""

import time
from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.apis import MMSegInferencer

from mmseg_tome.checkpoints.model import load_model
from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.predict.inputs import Item, check_channels
from mmseg_tome.predict.results import Prediction
from mmseg_tome.runtime.calibration import decide_before


class SegmentationPredictor:
    """Predicts the class of each pixel.

    The stock inferencer builds model and pipeline and runs them. It is given images in small
    batches, since it keeps the scores of all that it is given, at full size; and it does not save:
    it numbers its files, and paints arrays in the wrong order of colours.

    Args:
        cfg: Config of a segmentation model; stays as it is.
        checkpoint: File or address of its weights; None for random ones.
        device: Where to run, as `torch.device` takes it.
        batch_size: Images of one size that run together; the config's test batch size if None.
        opacity: Of the classes' colours over the image, 0 to 1.
        with_labels: Whether to write the classes' names into the overlay, as mmseg does, which
            takes longer than the network on most images.

    Raises:
        CheckpointError: The checkpoint cannot be read, wants to run code, or does not fit.
    """

    task = "segmentation"

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | None,
        device: str,
        batch_size: int | None = None,
        opacity: float = 0.5,
        with_labels: bool = False,
    ):
        cfg = Config(cfg.to_dict())
        # The config's own may log to places that are not there.
        cfg.visualizer = dict(type="SegLocalVisualizer", name="infer")
        self._inferencer = _Inferencer(cfg, checkpoint, device=device)
        self._inferencer.show_progress = False  # not an argument of every version
        self.batch_size = batch_size or cfg.test_dataloader.get("batch_size", 1)
        self.model = self._inferencer.model
        if hasattr(self.model, "labels_only"):  # ours: the scores are never made at full size
            self.model.labels_only = True
        self.channels = image_channels(self.model)
        meta = self.model.dataset_meta
        self.classes = list(meta["classes"])
        self.palette = np.array(meta["palette"], np.uint8)  # [classes, 3], RGB
        self.opacity = opacity
        self.with_labels = with_labels

    @property
    def meta(self) -> dict:
        """What results.json says once."""
        return dict(classes=self.classes, palette=self.palette.tolist())

    def predict(self, items: Sequence[Item]) -> list[Prediction]:
        """Segment images of one size.

        Raises:
            ModelInputError: The images are too small for the network, or of other channels.
        """
        for item in items:
            check_channels(item, self.channels)
        images = [item.image for item in items]

        def run():
            return self._inferencer(images, batch_size=len(images), return_datasamples=True)

        decide_before(run, self.model)
        start = time.perf_counter()
        samples = run()
        samples = samples if isinstance(samples, list) else [samples]
        dtype = np.uint8 if len(self.classes) <= 256 else np.uint16
        # Waits for a GPU.
        maps = [sample.pred_sem_seg.data[0].cpu().numpy().astype(dtype) for sample in samples]
        milliseconds = (time.perf_counter() - start) * 1000 / len(items)
        return [
            Prediction(
                result=dict(ms=round(milliseconds, 2), classes=self._shares(labels)),
                overlay=self._draw(item.picture, labels, sample),
                labels=labels,
            )
            for item, labels, sample in zip(items, maps, samples, strict=True)
        ]

    def _shares(self, labels: np.ndarray) -> dict[str, float]:
        """Share of the pixels of each class that occurs, the largest first."""
        counts = np.bincount(labels.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[i]: round(counts[i] / labels.size, 6) for i in order if counts[i]}

    def _draw(self, image: np.ndarray, labels: np.ndarray, sample) -> np.ndarray:
        if self.with_labels:
            painter = self._inferencer.visualizer
            painter.dataset_meta = self.model.dataset_meta
            painter.alpha = self.opacity
            painter.add_datasample("", image[..., ::-1], sample, draw_gt=False, with_labels=True)
            return painter.get_image()[..., ::-1]
        colours = self.palette[:, ::-1][labels]
        return cv2.addWeighted(image, 1 - self.opacity, colours, self.opacity, 0)


class _Inferencer(MMSegInferencer):
    """The stock inferencer around a model that `load_model` gives."""

    def _init_collate(self, cfg):
        return pseudo_collate  # mmseg has no other, and a look for one ends in a warning

    def _init_model(self, cfg, weights, device="cpu"):
        return load_model(cfg, weights, device)
