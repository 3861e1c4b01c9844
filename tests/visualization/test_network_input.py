import numpy as np
import pytest
import torch

from mmseg_tome import compat
from mmseg_tome.visualization.network_input import to_rgb

COLOURS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def preprocessors():
    found = []
    if compat.has("mmseg"):
        from mmseg.models import SegDataPreProcessor

        found.append(SegDataPreProcessor)
    if compat.has("mmpose"):
        from mmpose.models import PoseDataPreprocessor

        found.append(PoseDataPreprocessor)
    return found


@pytest.mark.parametrize("kind", preprocessors())
@pytest.mark.parametrize("options", [dict(bgr_to_rgb=True), {}], ids=["rgb", "bgr"])
@pytest.mark.parametrize("colours", [COLOURS, {}], ids=["normalised", "plain"])
def test_preprocessing_is_undone(kind, options, colours):
    bgr = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    preprocessor = kind(**options, **colours)
    if "Seg" in kind.__name__:
        from mmseg.structures import SegDataSample as Sample
    else:
        from mmpose.structures import PoseDataSample as Sample
    batch = dict(inputs=[torch.from_numpy(bgr).permute(2, 0, 1)], data_samples=[Sample()])
    image = preprocessor(batch, False)["inputs"][0]
    np.testing.assert_array_equal(to_rgb(image, preprocessor), bgr[..., ::-1])


def test_half_precision_and_values_beyond_the_range():
    image = torch.tensor([-3.0, 300.0, 7.4], dtype=torch.bfloat16).view(3, 1, 1)
    assert to_rgb(image, None).tolist() == [[[0, 255, 7]]]


def test_other_channels_are_shown_as_grey():
    image = torch.tensor([[[0.0, 1.0]], [[0.0, 3.0]]])
    assert to_rgb(image, torch.nn.Module()).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("name", ["_channel_conversion", "channel_conversion"])
def test_swapped_channels_by_either_stacks_name(name):
    preprocessor = torch.nn.Module()
    setattr(preprocessor, name, True)
    image = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    assert to_rgb(image, preprocessor).tolist() == [[[1, 2, 3]]]
    setattr(preprocessor, name, False)
    assert to_rgb(image, preprocessor).tolist() == [[[3, 2, 1]]]
