"""What autocast does to a tensor."""

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

TORCH_BEFORE_2_4 = TorchVersion(torch.__version__) < (2, 4)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Data type that autocast computes matrix products of `x` in, None where it is off."""
    kind = x.device.type
    if TORCH_BEFORE_2_4:  # its functions take no device
        cpu = kind == "cpu"
        on = torch.is_autocast_cpu_enabled() if cpu else torch.is_autocast_enabled()
        dtype = torch.get_autocast_cpu_dtype() if cpu else torch.get_autocast_gpu_dtype()
        return dtype if on else None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
