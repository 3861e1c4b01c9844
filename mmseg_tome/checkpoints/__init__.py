"""Reading, converting, loading and writing checkpoints. Torch alone, but for `model.load_model`.

`loading` reads a file without running code in it, `reading` also folders and names on the hub.
`recognise` names the format (one file each in `formats/`), `convert` gives a `Checkpoint`, of which
`writing` makes files, also Hugging Face's, and `config_file` a config. `torch_alone.load_weights`
and `model.load_model` load weights into a model that they must fit in full (`fitting`).
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
