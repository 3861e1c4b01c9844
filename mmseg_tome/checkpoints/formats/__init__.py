"""Formats of checkpoints, one file each. A file that is added here is found by itself."""

from importlib import import_module
from pkgutil import iter_modules

from mmseg_tome.checkpoints.formats.base import FORMATS, Format, register_format

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["FORMATS", "Format", "register_format"]
