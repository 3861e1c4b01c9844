import pytest
import torch

from mmseg_tome.engine.device import read_device
from mmseg_tome.engine.errors import UserError


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
