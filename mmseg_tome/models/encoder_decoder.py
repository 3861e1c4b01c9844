"""mmseg's EncoderDecoder with windows in batches, and labels without full-size logits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder as StockEncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_tome.ops import Windows, label_map
from mmseg_tome.ops.labelling import add_windows, average_windows
from mmseg_tome.registry import MODELS

PIXELS_AT_ONCE = 8 * 1024 * 1024
"""Pixels of the windows that run as one batch on a GPU, unless `test_cfg.window_batch` says how
many windows; a GPU is busy with fewer, and memory grows with them."""


@MODELS.register_module()
class EncoderDecoder(StockEncoderDecoder):
    """The stock segmentor: same arguments, state dict and results (to rounding), faster.

    Sliding windows, of one or several images, run as batches on a GPU, where a window alone leaves
    most of it idle; an out-of-memory error halves the batch. On a CPU, where that gains nothing,
    they run one by one as in mmseg, unless `test_cfg.window_batch` is set.

    Attributes:
        labels_only: Whether `predict` may leave `seg_logits` out of its data samples. The classes
            are then computed from the head's own, small logits, see `ops.label_map`, wherever
            that is the stock result.
    """

    labels_only: bool = False
    _windows_that_fit: int | None = None

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """Segment images, `[B, 3, H, W]`; as in mmseg, but for `labels_only`."""
        if not self.labels_only:
            return super().predict(inputs, data_samples)
        metas = None if data_samples is None else [sample.metainfo for sample in data_samples]
        if self._needs_full_logits(metas):
            data_samples = super().predict(inputs, data_samples)
            for sample in data_samples:
                if sample.get("seg_logits") is not None:
                    del sample.seg_logits
            return data_samples
        labels = self._label_maps(inputs, metas)
        if data_samples is None:
            data_samples = [SegDataSample() for _ in labels]
        for sample, label in zip(data_samples, labels, strict=True):
            sample.pred_sem_seg = PixelData(data=label)
        return data_samples

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits of images, `[B, 3, H, W] -> [B, classes, H, W]`, by overlapping windows."""
        if self._windows_at_once(inputs) is None:
            return super().slide_inference(inputs, batch_img_metas)
        windows = self._windows(inputs)
        decode = self._small_logits if self._head_is_plain() else self.encode_decode
        total = inputs.new_zeros(len(inputs), self.out_channels, *windows.hw)
        for first, logits in self._run(decode, inputs, windows, batch_img_metas):
            add_windows(total, logits, windows, first, self.align_corners)
        average_windows(total, windows)
        return total

    def _needs_full_logits(self, metas: Sequence[dict] | None) -> bool:
        """Whether the labels are anything but the arg-max of logits resized bilinearly."""
        return (
            not self._head_is_plain()
            or self.align_corners
            or self.out_channels == 1  # a threshold instead of an arg-max
            or self.test_cfg.get("mode", "whole") not in ("slide", "whole")  # mmseg says so
            or any(meta.get("flip") for meta in metas or ())
            or not _has(self, StockEncoderDecoder, "inference", "whole_inference")
            or not _has(self, StockEncoderDecoder, "postprocess_result")
            or not _has(self, EncoderDecoder, "slide_inference")
        )

    def _head_is_plain(self) -> bool:
        """Whether logits are what the head's `forward` gives, resized by stock code."""
        return _has(self, StockEncoderDecoder, "encode_decode") and _has(
            self.decode_head, BaseDecodeHead, "predict", "predict_by_feat"
        )

    def _small_logits(self, inputs: Tensor, metas: list[dict]) -> Tensor:
        """The head's own logits, `[B, 3, H, W] -> [B, classes, h, w]`."""
        return self.decode_head.forward(self.extract_feat(inputs))

    def _label_maps(self, inputs: Tensor, metas: list[dict] | None) -> list[Tensor]:
        """The classes of each image, `[B, 3, H, W] -> B x [1, H_i, W_i]`, int64."""
        if self.test_cfg.get("mode", "whole") == "slide":
            windows = self._windows(inputs)
            parts = [logits for _, logits in self._run(self._small_logits, inputs, windows, metas)]
            logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        else:
            windows = Windows.whole(inputs.shape[2:] if metas is None else _network_size(metas[0]))
            logits = self._small_logits(inputs, metas)
        if metas is None:
            return list(label_map(logits, windows)[:, None])
        return [
            label_map(logits[i :: len(metas)], windows, _padding(meta), meta["ori_shape"])
            for i, meta in enumerate(metas)
        ]

    def _windows(self, inputs: Tensor) -> Windows:
        return Windows(inputs.shape[2:], self.test_cfg.crop_size, self.test_cfg.stride)

    def _windows_at_once(self, inputs: Tensor) -> int | None:
        """How many windows run as one batch; None for one of each image, as in mmseg."""
        at_once = self.test_cfg.get("window_batch")
        if at_once is None and inputs.is_cuda:
            height, width = self._windows(inputs).crop
            at_once = max(PIXELS_AT_ONCE // (height * width), 1)
        if at_once is None or self._windows_that_fit is None:
            return at_once
        return min(at_once, self._windows_that_fit)

    def _run(
        self, decode: Callable, inputs: Tensor, windows: Windows, metas: list[dict] | None
    ) -> Iterator[tuple[int, Tensor]]:
        """Decode all windows in batches of about equal size.

        Args:
            decode: `(inputs, metas) -> logits`.
            inputs: `[B, 3, H, W]`.
            windows: Where the windows are.
            metas: Of each image.

        Yields:
            The index of the first of some `windows * B`, and their logits.
        """
        images, batch, boxes = inputs.split(1), len(inputs), windows.boxes()
        metas = metas or [{}] * batch
        first, number = 0, len(boxes) * batch
        while first < number:
            at_once = self._windows_at_once(inputs) or batch
            left = number - first
            some = range(first, first + -(-left // -(-left // at_once)))  # balanced
            crops = torch.cat([images[i % batch][(..., *boxes[i // batch])] for i in some])
            # As in mmseg the size is a torch.Size, by which heads know a window.
            crop_metas = [{**metas[i % batch], "img_shape": crops.shape[2:]} for i in some]
            try:
                logits = decode(crops, crop_metas)
            except torch.cuda.OutOfMemoryError:
                if len(some) == 1:
                    raise
                logits = None
            # Out of the handler, whose traceback keeps tensors alive.
            if logits is None:
                self._windows_that_fit = len(some) // 2
                print_log(
                    f"{len(some)} windows at once do not fit into memory, now "
                    f"{self._windows_that_fit} do: test_cfg.window_batch={self._windows_that_fit}",
                    logger="current",
                    level=logging.WARNING,
                )
                continue
            yield first, logits
            first += len(some)


def _has(part: torch.nn.Module, kind: type, *names: str) -> bool:
    """Whether these methods of a module are those of a class, neither overridden nor replaced."""
    methods = (getattr(getattr(part, name, None), "__func__", None) for name in names)
    return all(m is getattr(kind, n) for m, n in zip(methods, names, strict=True))


def _network_size(meta: dict) -> tuple[int, int]:
    """The size that a whole image's logits are resized to, as in `BaseDecodeHead`."""
    is_window = isinstance(meta["img_shape"], torch.Size)
    return meta["img_shape"] if is_window or "pad_shape" not in meta else meta["pad_shape"][:2]


def _padding(meta: dict) -> tuple[int, int, int, int]:
    """Pixels that were added to an image: left, right, top, bottom, as in `BaseSegmentor`."""
    return tuple(meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0))))
