"""Index maps that depend on the grid alone are built once per grid and device, then kept."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mmseg_tome.ops.backend import current_export, is_compiling, is_faked, is_transformed

MAX_GRIDS = 256
"""Entries of each cached function; the least recently used is evicted."""

_keepers: list[dict[int, object]] = []


@contextmanager
def keep_index_maps() -> Iterator[dict[int, object]]:
    """Collect whatever is looked up inside the context, by any thread.

    A CUDA graph reads the maps of its capture from memory as long as it lives; the cache may evict
    them before.

    Yields:
        The values by their identity. Holding it holds them.
    """
    kept: dict[int, object] = {}
    _keepers.append(kept)
    try:
        yield kept
    finally:
        _keepers[:] = [each for each in _keepers if each is not kept]


def builds_anew() -> bool:
    """Whether maps are part of what runs now, and of no use later.

    A compiler folds them into its graph as constants; an export for one size takes those that are
    kept. Under the mode of fake tensors and in a transform of `torch.func` they are tensors of that
    mode or transform.
    """
    export = current_export()
    if export is not None and not export.any_size:
        return False
    return is_compiling() or is_faked() or is_transformed()


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
        if builds_anew():
            return build(*key)
        found = kept(*key)
        for keeper in _keepers:
            keeper[id(found)] = found
        return found

    vars(lookup).update(cache_info=kept.cache_info, cache_clear=kept.cache_clear)
    return lookup
