"""Merging strategies, one file each. A file that is added here is found by itself."""

from importlib import import_module
from pkgutil import iter_modules

from mmseg_tome.merging.strategies.base import STRATEGIES, MergingStrategy, register_strategy

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["STRATEGIES", "MergingStrategy", "register_strategy"]
