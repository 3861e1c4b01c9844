import pytest
import torch

from mmseg_tome.models.image_channels import image_channels


@pytest.mark.parametrize("channels", [1, 3, 4, 13])
def test_it_is_that_of_the_first_convolution(tiny, channels):
    model = torch.nn.Module()
    model.head = torch.nn.Conv2d(7, 7, 1)
    model.backbone = tiny(in_channels=channels)
    assert image_channels(model) == image_channels(model.backbone) == channels


def test_a_model_without_one_is_named():
    with pytest.raises(ValueError, match="Linear has no convolution"):
        image_channels(torch.nn.Linear(2, 2))
