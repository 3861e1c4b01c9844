"""Transforms of torch.func over the whole backbone: the gradient of each sample at once."""

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("tome_cfg", ["hq", "fast-turbo", "n2d"])
def test_gradients_of_each_sample_at_once(tiny, tome_cfg):
    model, images = tiny(tome_cfg=tome_cfg).double(), torch.randn(2, 3, 64, 96).double()
    parameters = dict(model.named_parameters())

    def loss(parameters, image):
        outs = torch.func.functional_call(model, parameters, (image[None],))
        return sum(out.square().mean() for out in outs)

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, images)
    for i, image in enumerate(images):
        expected = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        for name, grad in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][i], grad)
