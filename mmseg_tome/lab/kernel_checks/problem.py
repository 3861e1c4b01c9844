"""A problem for some kernels: inputs on one device, and operations on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BYTES_PER_S, FLOP_PER_S = 3.0e12, {torch.float32: 400e12}
"""Copy rate of an H100, and its matmul rate: 800 TFLOP/s, in float32 400, which is tf32."""


class Case(NamedTuple):
    """One stage's tokens."""

    batch: int
    side: int
    channels: int = 320

    def __str__(self):
        return f"{self.batch} x {self.side}x{self.side} x {self.channels}"


class Problem:
    """Methods without a leading underscore are operations, in the order of the report."""

    dtype: torch.dtype

    def _floors(self) -> dict[str, float]:
        """Microseconds that memory and arithmetic allow each operation."""
        raise NotImplementedError

    def _widen(self) -> None:
        """Turn floating-point inputs into float64, which the twins take."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(self, name, value.double())

    def _judge(self, results: dict[str, tuple]) -> list[str]:
        """What is wrong with the results of operations that have no unique result."""
        return []

    _not_unique: tuple[str, ...] = ()
    """Operations that only `_judge` looks at, as rounding decides near-ties."""

    def _operations(self) -> tuple[str, ...]:
        return tuple(name for name in vars(type(self)) if not name.startswith("_"))


def floor_us(nbytes: float, flop: float = 0, dtype: torch.dtype = torch.bfloat16) -> float:
    """The larger of the time of the bytes and that of the FLOP, in microseconds."""
    return 1e6 * max(nbytes / BYTES_PER_S, flop / FLOP_PER_S.get(dtype, 800e12))
