"""Which format a checkpoint has."""

from mmseg_tome.checkpoints.checkpoint import Checkpoint, Source
from mmseg_tome.checkpoints.errors import ConversionError, some
from mmseg_tome.checkpoints.formats import FORMATS, Format


def recognise(source: Source) -> Format:
    """The format that knows every key of a checkpoint.

    Raises:
        ConversionError: None does; the nearest ones are named with the keys they do not know.
    """
    keys = list(source.state)
    # Parameters that a format knows only to drop them say nothing.
    knowing = [fmt for fmt in FORMATS.values() if any(fmt.our_key(key) for key in keys)]
    unexpected = {fmt.name: fmt.unexpected(keys) for fmt in knowing}
    nearest = sorted(knowing, key=lambda fmt: len(unexpected[fmt.name]))
    if nearest and not unexpected[nearest[0].name]:
        return nearest[0]
    if not nearest:
        titles = "; ".join(fmt.title for fmt in FORMATS.values())
        raise ConversionError(
            f"none of its {len(keys)} keys is one of SegFormer ({some(keys)}). Known are: {titles}"
        )
    described = "; ".join(
        f"{fmt.title}, but for {len(unexpected[fmt.name])} of {len(keys)} keys "
        f"({some(unexpected[fmt.name])})"
        for fmt in nearest
    )
    raise ConversionError(f"unknown layout. The nearest is that of {described}")


def convert(source: Source) -> Checkpoint:
    """Recognise a checkpoint and convert it.

    Raises:
        ConversionError: It is of no known format, or not whole.
    """
    return recognise(source).convert(source)
