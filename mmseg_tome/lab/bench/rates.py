"""How fast a device copies and multiplies matrices: what floors are measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.utils.benchmark import Timer

from . import measure

COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Size of the tensor to copy: far beyond the caches."""
MATMUL_SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (2048, 4096, 8192, 16384)}
LONG_ENOUGH_S = 0.1
"""No larger matrices are tried after a product that took this long."""
MIN_RUN_S = 0.2
"""Of repetitions on a CPU."""
TF32 = "tf32"


@dataclass
class Rates:
    """What a device can do at best, measured.

    ``copy`` is in bytes/s, those read plus those written. ``matmul`` maps a precision (a dtype's
    name, or `tf32`) to FLOP/s; one that is missing is measured when it is asked for.
    """

    device: torch.device
    copy: float
    matmul: dict[str, float] = field(default_factory=dict)

    def seconds(self, flops: dict[str, int]) -> float:
        """Time of so many FLOPs by precision at the matmul rate."""
        return sum(count / self._flop_rate(name) for name, count in flops.items() if count)

    def _flop_rate(self, precision: str) -> float:
        if precision not in self.matmul:
            self.matmul[precision] = matmul_rate(self.device, precision)
        return self.matmul[precision]

    def report(self) -> dict:
        """For the JSON."""
        return {
            "copy_gb_per_s": self.copy / 1e9,
            "matmul_gflop_per_s": {name: rate / 1e9 for name, rate in self.matmul.items()},
        }


def measure_rates(device: torch.device, dtypes: list[torch.dtype]) -> Rates:
    """Measure a device's rates, the matmul rate of ``dtypes`` now, of others on demand."""
    measure.make_current(device)
    rates = Rates(device, copy_rate(device))
    for dtype in dtypes:
        try:
            rates.seconds({precision_of(dtype, device): 1})
        except RuntimeError:  # no product of this dtype here: the cases will say so
            continue
    return rates


def copy_rate(device: torch.device) -> float:
    """Bytes read plus bytes written per second of a large ``copy_``."""
    size = COPY_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    return 2 * size / _seconds(partial(torch.empty_like(source).copy_, source), device)


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a product of square matrices, the best of a few sizes."""
    dtype = torch.float32 if precision == TF32 else getattr(torch, precision)
    backend = torch.backends.cuda.matmul
    allowed = device.type == "cuda" and backend.allow_tf32
    best = 0.0
    try:
        if allowed != (precision == TF32):
            backend.allow_tf32 = not allowed
        for n in MATMUL_SIZES[device.type]:
            a, b = torch.randn(2, n, n, device=device).to(dtype)
            seconds = _seconds(partial(torch.mm, a, b, out=torch.empty_like(a)), device)
            best = max(best, 2 * n**3 / seconds)
            if seconds > LONG_ENOUGH_S:
                break
    finally:
        if allowed != (precision == TF32):
            backend.allow_tf32 = allowed
    return best


def precision_of(dtype: torch.dtype, device: torch.device, convolution: bool = False) -> str:
    """What a matrix product or convolution of a dtype is computed in: its name, or `tf32`."""
    backend = torch.backends.cudnn if convolution else torch.backends.cuda.matmul
    if device.type == "cuda" and dtype == torch.float32 and backend.allow_tf32:
        return TF32
    return str(dtype).removeprefix("torch.")


@torch.inference_mode()
def _seconds(function: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few calls."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return do_bench(function, return_mode="min") / 1e3
    timer = Timer("f()", globals={"f": function}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=MIN_RUN_S).times)
