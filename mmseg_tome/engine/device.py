"""The device that a command line names."""

import torch

from mmseg_tome.engine.errors import UserError


def read_device(name: str) -> torch.device:
    """`"cpu"`, `"cuda"` or `"cuda:N"` as a device that torch sees.

    Raises:
        UserError: It is none of these, or there are not as many.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported; use cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device {name!r} was requested, but torch sees {count} CUDA devices")
    return device
