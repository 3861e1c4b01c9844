"""Devices and sizes as users write them."""

import pytest
import torch

from mmseg_tome.config import read_device, read_size
from mmseg_tome.errors import UserError


def test_a_device_that_is_there():
    assert read_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("abacus", "unknown device 'abacus'; use cpu, cuda or cuda:N"),
        ("meta", "device 'meta' is not supported; use cpu, cuda or cuda:N"),
        ("cuda:99", "device 'cuda:99' was requested, but torch sees"),
    ],
)
def test_a_device_that_is_not(name, message):
    with pytest.raises(UserError, match=message):
        read_device(name)


def test_a_size_is_height_and_width():
    assert read_size("1024x2048") == (1024, 2048)


@pytest.mark.parametrize("text", ["64", "64x", "0x64", "64x64x3", "-1x64", "64 x 64", "6.4x64"])
def test_anything_else_is_no_size(text):
    with pytest.raises(UserError, match=f"--size {text} is not HxW, such as 1024x2048"):
        read_size(text)
