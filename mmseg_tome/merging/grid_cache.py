"""Index maps that depend on the grid alone are built once per grid and device, then kept."""

import functools
from collections.abc import Callable

import torch

from mmseg_tome.ops.tracing import is_compiling, is_transformed, is_watched
from mmseg_tome.ops.twins import replaceable

MAX_GRIDS = 256
"""Entries each cached function keeps, the least recently used going first."""


@replaceable
def builds_anew() -> bool:
    """Whether maps are part of what runs now, and of no use later.

    A compiler folds them into its graph as constants. Under a dispatch mode, as that of fake
    tensors, and in a transform of `torch.func` they are tensors of that mode or transform.
    """
    return is_compiling() or is_watched() or is_transformed()


def cached_per_grid(build: Callable) -> Callable:
    """Cache a function of hashable arguments (grid, stride, device, ...) that builds index maps.

    Threads may share it. Where `builds_anew`, the plain function runs.
    """

    @functools.lru_cache(MAX_GRIDS)
    def kept(*key):
        # An inference tensor could not be saved for a later backward pass.
        with torch.inference_mode(False):
            return build(*key)

    @functools.wraps(build)
    def lookup(*key):
        return build(*key) if builds_anew() else kept(*key)

    lookup.cache_info, lookup.cache_clear = kept.cache_info, kept.cache_clear
    return lookup
