"""Index maps that depend on the grid alone are built once per grid and device, then kept."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mmseg_tome.ops.backend import is_compiling

MAX_GRIDS = 256
"""Entries each cached function keeps, the least recently used going first."""

_keepers: list[dict[int, object]] = []


@contextmanager
def keep_index_maps() -> Iterator[dict[int, object]]:
    """Collect whatever is looked up inside the context, by any thread.

    A CUDA graph reads the maps of its capture from their memory for as long as it lives; a cache
    may drop them before.

    Yields:
        The values by their identity. Holding it holds them.
    """
    kept: dict[int, object] = {}
    _keepers.append(kept)
    try:
        yield kept
    finally:
        _keepers[:] = [each for each in _keepers if each is not kept]


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
        found = cache[key]
        for kept in _keepers:
            kept[id(found)] = found
        return found

    lookup.cache = cache
    return lookup
