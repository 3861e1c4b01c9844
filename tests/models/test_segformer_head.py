"""The decode head's losses: stock mmseg's values, computed without waiting for a GPU."""

import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.structures import PixelData
from mmseg.models.decode_heads import SegformerHead as StockHead
from mmseg.models.losses import accuracy
from mmseg.structures import SegDataSample

from mmseg_tome.models import SegformerHead
from mmseg_tome.models.segformer_head import pixel_accuracy

CLASSES = 5
LOSSES = dict(
    plain=dict(loss_decode=dict(type="mmseg.CrossEntropyLoss")),
    several=dict(
        loss_decode=[
            dict(type="mmseg.CrossEntropyLoss", loss_weight=2.0),
            dict(type="mmseg.CrossEntropyLoss", loss_weight=0.4, avg_non_ignore=True),
            dict(type="mmseg.DiceLoss", loss_weight=0.3),
        ]
    ),
    hard_pixels=dict(
        loss_decode=dict(type="mmseg.CrossEntropyLoss"),
        sampler=dict(type="mmseg.OHEMPixelSampler", thresh=0.7, min_kept=20),
    ),
)


def head(kind, loss="plain"):
    return kind(
        in_channels=[4, 8], in_index=[0, 1], channels=4, num_classes=CLASSES, **LOSSES[loss]
    )


def samples(*labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


@pytest.fixture
def labels():
    labels = torch.randint(CLASSES, (3, 1, 16, 24))
    labels[torch.rand(labels.shape) < 0.3] = 255
    labels[1] = 255  # an image of nothing but ignored pixels
    return labels


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_the_stock_ones(labels, loss):
    results = []
    for kind in (StockHead, SegformerHead):
        logits = torch.randn(
            3, CLASSES, 4, 6, generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        losses = head(kind, loss).loss_by_feat(logits, samples(*labels))
        sum(value for key, value in losses.items() if "loss" in key).backward()
        results.append((losses, logits.grad))
    (stock, stock_grad), (ours, our_grad) = results
    assert list(ours) == list(stock)
    torch.testing.assert_close(ours, stock)
    torch.testing.assert_close(our_grad, stock_grad)


@pytest.mark.parametrize("ignore_index", [255, None, 0])
def test_accuracy_is_mmsegs_to_the_last_bit(labels, ignore_index):
    for chosen in (labels[:, 0], labels[1:2, 0]):
        logits = torch.randn(len(chosen), CLASSES, 16, 24)
        ours = pixel_accuracy(logits, chosen, ignore_index)
        stock = accuracy(logits, chosen, ignore_index=ignore_index)
        torch.testing.assert_close(ours.view(stock.shape), stock, rtol=0, atol=0)
        assert not ours.requires_grad


def test_nothing_depends_on_the_values_of_labels():
    """Tensors without values have no masks to select by: what runs on them never waits."""
    logits = torch.empty(2, CLASSES, 4, 6, device="meta")
    labels = torch.empty(2, 1, 16, 24, device="meta", dtype=torch.long)
    losses = head(SegformerHead).to("meta").loss_by_feat(logits, samples(*labels))
    assert losses["acc_seg"].shape == (1,)
    with pytest.raises((NotImplementedError, RuntimeError)):
        head(StockHead).to("meta").loss_by_feat(logits, samples(*labels))
