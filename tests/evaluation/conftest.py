"""Metrics as an evaluator uses them."""

import pytest
import torch

CLASSES = ("road", "pole", "person", "sky")


@pytest.fixture
def build():
    """Build a metric of ours by its name, as a config does, for a data set of four classes."""
    from mmseg_tome.registry import METRICS

    def build(kind: str, *, names=CLASSES, **kwargs):
        metric = METRICS.build(dict(type=f"mmseg_tome.{kind}", **kwargs))
        metric.dataset_meta = dict(classes=names)
        return metric

    return build


@pytest.fixture
def evaluate():
    """Run a metric over pairs of prediction and label, nested lists or tensors `[H, W]`."""

    def evaluate(metric, *pairs, **fields) -> dict:
        samples = [
            dict(
                pred_sem_seg=dict(data=torch.as_tensor(pred)[None]),
                gt_sem_seg=dict(data=torch.as_tensor(label)[None]),
                **fields,
            )
            for pred, label in pairs
        ]
        metric.process({}, samples)
        return metric.evaluate(len(samples))

    return evaluate


@pytest.fixture
def random_pairs():
    """Images with blobs of four classes and of void, and predictions that are partly right."""

    def build(number: int, hw: tuple[int, int], seed: int = 0) -> list:
        generator = torch.Generator().manual_seed(seed)

        def blobs(classes: torch.Tensor) -> torch.Tensor:
            coarse = torch.randint(
                len(classes), (hw[0] // 2 + 1, hw[1] // 2 + 1), generator=generator
            )
            large = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1)[: hw[0], : hw[1]]
            return classes[large]

        def pair():
            label = blobs(torch.tensor([0, 0, 1, 2, 3, 255]))
            guess = blobs(torch.arange(4))
            right = (torch.rand(hw, generator=generator) < 0.6) & (label != 255)
            return torch.where(right, label, guess), label

        return [pair() for _ in range(number)]

    return build
