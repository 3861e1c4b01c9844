"""Windows as mmseg lays them, and labels of their logits by hand."""

import pytest
import torch

from mmseg_tome.ops import Windows, label_map


def mmseg_boxes(hw, crop, stride):
    """The arithmetic of mmseg's `slide_inference`, word by word."""
    (h_img, w_img), (h_crop, w_crop), (h_stride, w_stride) = hw, crop, stride
    boxes = []
    for h_idx in range(max(h_img - h_crop + h_stride - 1, 0) // h_stride + 1):
        for w_idx in range(max(w_img - w_crop + w_stride - 1, 0) // w_stride + 1):
            y2 = min(h_idx * h_stride + h_crop, h_img)
            x2 = min(w_idx * w_stride + w_crop, w_img)
            y1, x1 = max(y2 - h_crop, 0), max(x2 - w_crop, 0)
            boxes.append((slice(y1, y2), slice(x1, x2)))
    return boxes


@pytest.mark.parametrize("length", [1, 5, 8, 9, 13, 24, 31])
@pytest.mark.parametrize(("crop", "stride"), [(8, 8), (8, 5), (8, 1), (3, 2), (40, 30)])
def test_windows_are_those_of_mmseg(length, crop, stride):
    args = ((length, 20), (crop, 7), (stride, 6))
    assert Windows(*args).boxes() == mmseg_boxes(*args)


def test_windows_that_leave_pixels_out_are_refused():
    Windows((8, 8), (4, 4), (6, 4))  # the second is moved inwards
    with pytest.raises(ValueError, match=r"\(4, 4\) pixels at steps of \(6, 4\)"):
        Windows((10, 8), (4, 4), (6, 4))
    for args in (((8, 8), (4, 4), (0, 4)), ((8, 8), (0, 4), (4, 4)), ((0, 8), (4, 4), (4, 4))):
        with pytest.raises(ValueError, match=r"windows have a \w+ of \(0, \d\) pixels"):
            Windows(*args)


def logits_of(*classes):
    """`[1, C, 1, w]` from the rows of classes."""
    return torch.tensor(classes, dtype=torch.float32)[None, :, None]


def test_hand_computed():
    small = logits_of([0, 8], [5, 5], [0, 0])
    # Resized to 4 pixels the first class is 0, 2, 6, 8: half-pixel centres.
    assert label_map(small, Windows.whole((1, 4))).tolist() == [[[1, 1, 0, 0]]]
    # Two windows of two pixels, one pixel in both: 3 and 4 against their mean's 4, then 9.
    windows = torch.cat([logits_of([3, 4], [4, 5]), logits_of([6, 9], [0, 0])])
    assert label_map(windows, Windows((1, 3), (1, 2), (1, 1))).tolist() == [[[1, 0, 0]]]
    # Without the padding that is last, then resized from 2 to 4 pixels.
    padded = logits_of([0, 8, 99], [5, 5, 0])
    cut = label_map(padded, Windows.whole((1, 3)), padding=(0, 1, 0, 0), size=(2, 4))
    assert cut.tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0]]]


def test_equal_logits_give_the_lowest_class():
    assert not label_map(torch.zeros(1, 5, 2, 2), Windows.whole((4, 4))).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 windows"):
        label_map(torch.zeros(4, 2, 2, 2), Windows((4, 8), (4, 4), (2, 2)))
    with pytest.raises(ValueError, match="padding"):
        label_map(torch.zeros(1, 2, 2, 2), Windows.whole((4, 4)), padding=(2, 2, 0, 0))
