"""The preprocessors give what the stock ones give, bit for bit."""

import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.registry import MODELS

NORMALISE = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
GREY = dict(mean=[100.0], std=[50.0])


def pair(package, **options):
    """The stock one and ours."""
    if not compat.has(package):
        pytest.skip(f"needs {package}")
    name = dict(mmseg="SegDataPreProcessor", mmpose="PoseDataPreprocessor")[package]
    scopes = (package, "mmseg_tome")
    return [MODELS.build(dict(type=f"{scope}.{name}", **options)) for scope in scopes]


def batch(package, channels=3, size=(13, 17), number=2):
    if package == "mmseg":
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmpose.structures import PoseDataSample as Sample
    samples = [Sample() for _ in range(number)]
    if package == "mmseg":
        for sample in samples:
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, *size)))
    shape = (channels, *size)
    images = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(number)]
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize("package", ["mmseg", "mmpose"])
@pytest.mark.parametrize("swap", [dict(bgr_to_rgb=True), dict(rgb_to_bgr=True), dict()])
@pytest.mark.parametrize("training", [False, True])
def test_results_are_the_stock_ones(package, swap, training):
    options = {**NORMALISE, **swap}
    if package == "mmseg":
        options["size"] = (16, 20)
    stock, ours = pair(package, **options)
    given = batch(package)
    before = [image.clone() for image in given["inputs"]]
    results = [each(dict(given), training) for each in (stock, ours)]
    assert torch.equal(*(result["inputs"] for result in results))
    assert results[1]["inputs"].dtype == torch.float32
    assert all(map(torch.equal, given["inputs"], before))
    metas = [[sample.metainfo for sample in result["data_samples"]] for result in results]
    assert metas[0] == metas[1]


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_keep_their_order(channels):
    stock, ours = pair("mmseg", **GREY, bgr_to_rgb=True)
    given = batch("mmseg", channels)
    assert torch.equal(stock(dict(given))["inputs"], ours(dict(given))["inputs"])


def test_crops_of_several_sizes_are_padded_as_in_mmpose():
    stock, ours = pair("mmpose", **NORMALISE, bgr_to_rgb=True, pad_size_divisor=8)
    given, other = batch("mmpose"), batch("mmpose", size=(9, 23))
    given = {key: given[key] + other[key] for key in given}
    results = [each(dict(given)) for each in (stock, ours)]
    assert torch.equal(*(result["inputs"] for result in results))
