"""Checkpoints of other code bases of SegFormer, and what becomes of them here. Torch alone.

A format is one file in `formats/`, found by itself. `recognise` says which one a checkpoint has,
`convert` gives a `Checkpoint`, from which `writing` makes files, also Hugging Face's, and
`config_file` a config. `reading` finds and reads the files.
"""

from mmseg_tome.checkpoints.checkpoint import Checkpoint, Source
from mmseg_tome.checkpoints.formats import FORMATS, Format, register_format
from mmseg_tome.checkpoints.formats.base import convert, recognise
from mmseg_tome.errors import ConversionError

__all__ = [
    "FORMATS",
    "Checkpoint",
    "ConversionError",
    "Format",
    "Source",
    "convert",
    "recognise",
    "register_format",
]
