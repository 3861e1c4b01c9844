"""Index maps that depend on the grid alone are built once per grid and device, then kept."""

import functools
from collections import OrderedDict
from collections.abc import Callable

import torch

from mmseg_tome.ops.backend import is_compiling

MAX_GRIDS = 256
"""Entries each cached function keeps, the least recently used going first."""


def cached_per_grid(build: Callable) -> Callable:
    """Cache a function of hashable arguments (grid, stride, device, ...) that builds index maps.

    A compiler sees the plain function: it folds the maps into the graph as constants.
    """
    cache: OrderedDict = OrderedDict()

    @functools.wraps(build)
    def lookup(*key):
        if is_compiling():
            return build(*key)
        if key in cache:
            cache.move_to_end(key)
        else:
            # An inference tensor could not be saved for a later backward pass.
            with torch.inference_mode(False):
                cache[key] = build(*key)
            if len(cache) > MAX_GRIDS:
                cache.popitem(last=False)
        return cache[key]

    lookup.cache = cache
    return lookup
