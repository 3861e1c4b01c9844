"""What a file holds that does not fit a model, and what its user can do. Torch alone."""

from collections.abc import Mapping

from torch import Tensor

from mmseg_tome.checkpoints.architecture import BACKBONE, DECODE_HEAD, POSE_HEAD
from mmseg_tome.checkpoints.checkpoint import Source
from mmseg_tome.checkpoints.errors import ConversionError
from mmseg_tome.checkpoints.recognition import recognise
from mmseg_tome.checkpoints.wrappers import plain_names


def holding(state: Mapping[str, Tensor], name: str) -> str:
    """The end of a message about a checkpoint that does not fit; empty if nothing is known of it.

    Args:
        state: Its parameters.
        name: Its file.
    """
    plain = plain_names(state)
    try:
        found = recognise(Source(plain))
    except ConversionError:
        return ""
    if found.name != "mm":
        return (
            f". It is one of {found.title}: python tools/convert_checkpoint.py {name} "
            "converted.pth makes one that fits"
        )
    names = [found.our_key(key) or "" for key in plain]
    if not any(key.startswith((DECODE_HEAD, POSE_HEAD)) for key in names):
        prefixed = any(key.startswith(BACKBONE) for key in plain)
        where = ", prefix='backbone.'" if prefixed else ""
        return (
            ". It holds a backbone alone, from which a head can be trained: "
            f"model.backbone.init_cfg=dict(type='Pretrained', checkpoint='{name}'{where})"
        )
    return ""
