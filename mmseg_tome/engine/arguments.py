"""Devices and sizes as command lines name them."""

import re

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


def read_size(text: str) -> tuple[int, int]:
    """`"1024x2048"` as height and width.

    Raises:
        UserError: It is not of that form, or a side is 0.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--size {text} is not HxW, such as 1024x2048")
    return int(match[1]), int(match[2])
