"""What a merging strategy is, and the table that configs look modes up in."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from mmseg_tome.merging.slot_map import SlotMap

STRATEGIES: dict[str, type["MergingStrategy"]] = {}
"""Strategy class of each `mode` that a config may name."""


def register_strategy(
    mode: str,
) -> Callable[[type["MergingStrategy"]], type["MergingStrategy"]]:
    """Class decorator: make a strategy available to configs as `mode`.

    Decorate a frozen dataclass: its fields are the keys that a config may give.
    """

    def register(strategy: type["MergingStrategy"]) -> type["MergingStrategy"]:
        if mode in STRATEGIES:
            raise ValueError(f"merging mode {mode!r} is taken by {STRATEGIES[mode].__name__}")
        STRATEGIES[mode] = strategy
        return strategy

    return register


class MergingStrategy(ABC):
    """A function from tokens to a slot map, called only with as many tokens as the grid has.

    Attributes:
        by_grid: Whether the map follows from the grid alone, whatever the tokens are.
    """

    by_grid: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            cls.__call__ = _on_its_grid(cls.__call__)  # type: ignore[method-assign]

    @abstractmethod
    def __call__(self, metric: Tensor, hw: tuple[int, int]) -> SlotMap:
        """Decide which tokens merge.

        Args:
            metric: What similarity is measured on, `[B, N, C]`.
            hw: The grid of the tokens, rows and columns; `H * W == N`.

        Raises:
            ValueError: The tokens are not those of the grid.
        """

    @abstractmethod
    def num_slots(self, hw: tuple[int, int]) -> int:
        """Number of merged tokens M on a grid of `hw`, without computing a map."""


def _on_its_grid(call: Callable) -> Callable:
    @functools.wraps(call)
    def checked(self: MergingStrategy, metric: Tensor, hw: tuple[int, int]) -> SlotMap:
        if torch.jit.is_tracing():  # sizes are tensors there; a map's shape is always constant
            hw = (int(hw[0]), int(hw[1]))
        if metric.ndim != 3 or metric.shape[1] != hw[0] * hw[1]:
            raise ValueError(
                f"tokens {tuple(metric.shape)} are not those of a grid of {hw[0]}x{hw[1]}: "
                f"[B, {hw[0] * hw[1]}, C] is expected"
            )
        return call(self, metric, hw)

    return checked


def check_ratio(ratio: float) -> None:
    """Raise ValueError unless `ratio`, the fraction of tokens to remove, is in [0, 1)."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
        raise ValueError(f"ratio must be a number in [0, 1), got {ratio!r}")


def check_stride(stride: tuple[int, int]) -> None:
    """Raise ValueError unless `stride` is two positive integers `(sy, sx)`."""
    pair = isinstance(stride, (tuple, list)) and len(stride) == 2
    if not pair or not all(type(s) is int and s > 0 for s in stride):
        raise ValueError(f"stride must be two positive integers (sy, sx), got {stride!r}")
