import pytest
import torch

from mmseg_tome.nets import MixVisionTransformer
from mmseg_tome.nets.segformer import image_channels


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
def test_it_is_that_of_the_first_convolution(channels):
    model = torch.nn.Module()
    model.head = torch.nn.Conv2d(7, 7, 1)
    model.backbone = MixVisionTransformer(channels, embed_dims=8, num_layers=(1, 1, 1, 1))
    assert image_channels(model) == image_channels(model.backbone) == channels


def test_a_model_without_one_is_named():
    with pytest.raises(ValueError, match="Linear has no convolution"):
        image_channels(torch.nn.Linear(2, 2))
