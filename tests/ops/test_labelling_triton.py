"""The labelling kernel against its twin."""

import pytest
import torch

from mmseg_tome.ops import Windows, label_map, labelling

pytestmark = pytest.mark.usefixtures("kernels")

CASES = {
    "whole": (Windows.whole((8, 12)), (2, 3), {}),
    "odd sizes": (Windows.whole((7, 13)), (3, 5), {}),
    "smaller than the logits": (Windows.whole((3, 4)), (5, 9), {}),
    "logits of one pixel": (Windows.whole((3, 4)), (1, 1), {}),
    "windows": (Windows((9, 17), (6, 6), (4, 5)), (2, 3), {}),
    "a window larger than the image": (Windows((9, 7), (12, 5), (8, 3)), (3, 2), {}),
    "padding": (Windows.whole((9, 12)), (3, 4), dict(padding=(1, 2, 3, 1))),
    "resized": (Windows.whole((8, 10)), (3, 4), dict(size=(11, 7))),
    "one pixel": (Windows((9, 17), (6, 6), (4, 5)), (2, 3), dict(size=(1, 1))),
    "everything": (
        Windows((5, 11), (3, 6), (2, 4)),
        (2, 3),
        dict(padding=(2, 1, 0, 1), size=(6, 13)),
    ),
}


def logits_for(windows, hw, classes, dtype, device, batch=2):
    number = windows.grid[0] * windows.grid[1]
    logits = torch.randn(number * batch, classes, *hw, device=device).to(dtype)
    return logits.contiguous(memory_format=torch.channels_last)


def full_logits(logits, windows, padding=(0, 0, 0, 0), size=None):
    """What the twin takes the arg-max of, in float64."""
    total = logits.new_zeros(2, logits.shape[1], *windows.hw, dtype=torch.float64)
    labelling.add_windows(total, logits.double(), windows)
    labelling.average_windows(total, windows)
    left, right, top, bottom = padding
    cut = total[:, :, top : windows.hw[0] - bottom, left : windows.hw[1] - right]
    return torch.nn.functional.interpolate(cut, size or cut.shape[2:], mode="bilinear")


@pytest.mark.parametrize(
    ("case", "classes", "dtype"),
    [
        *((case, 10, torch.float32) for case in CASES),
        *(("everything", 2, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
    ],
    ids=str,
)
def test_it_is_its_twin(case, classes, dtype, device):
    windows, hw, options = CASES[case]
    logits = logits_for(windows, hw, classes, dtype, device)
    out = label_map(logits, windows, **options)
    twin = labelling.label_map_torch(logits, windows, **options)
    assert out.shape == twin.shape
    assert out.dtype == twin.dtype == torch.int64
    # Where they choose different classes, rounding must be able to.
    full = full_logits(logits, windows, **options)
    chosen, best = (full.gather(1, labels[:, None]) for labels in (out, twin))
    assert ((best - chosen).abs() <= 1e-5 * full.abs().amax(1, keepdim=True)).all()
    assert (out != twin).double().mean() < 1e-2


def test_many_classes_and_rows_longer_than_a_block(device):
    windows = Windows((1, 300), (1, 170), (1, 130))
    logits = logits_for(windows, (1, 43), 150, torch.float32, device)
    assert torch.equal(label_map(logits, windows), labelling.label_map_torch(logits, windows))


def test_ties_give_the_lowest_class(device):
    windows = Windows((5, 11), (3, 6), (2, 4))
    logits = logits_for(windows, (2, 3), 4, torch.float32, device)
    # Lanes of the kernel hold every eighth class: the third to last is equal to the first.
    logits = torch.cat([logits, logits.roll(1, 1), logits], 1)
    for options in ({}, dict(size=(4, 8))):
        out = label_map(logits, windows, **options)
        assert torch.equal(out, labelling.label_map_torch(logits[:, :4], windows, **options))
        assert out.max() == 3


def test_logits_that_are_not_numbers_give_a_class(device):
    for value in (float("nan"), float("-inf")):
        logits = torch.full((1, 5, 2, 2), value, device=device)
        assert not label_map(logits, Windows.whole((4, 4))).any()


@pytest.mark.parametrize("image", [0, 1])
def test_layouts_do_not_matter(image, device):
    windows = Windows((9, 17), (6, 6), (4, 5))
    logits = logits_for(windows, (2, 3), 5, torch.float32, device)
    both = label_map(logits, windows)
    assert torch.equal(label_map(logits.contiguous(), windows), both)
    assert torch.equal(label_map(logits[image::2], windows)[0], both[image])  # not copied


def test_the_operator_is_what_it_says(device):
    windows = Windows((9, 17), (6, 6), (4, 5))
    logits = logits_for(windows, (2, 3), 5, torch.float32, device)
    sizes = (windows.hw, windows.crop, windows.stride, windows.grid, (0, 0, 0, 0), (9, 17))
    arguments = (logits, *map(list, sizes))
    from mmseg_tome.ops import labelling_triton

    torch.library.opcheck(labelling_triton.label_map.registered, arguments)
    compiled = torch.compile(label_map, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, windows), label_map(logits, windows))
