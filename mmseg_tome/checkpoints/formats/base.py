"""What a format of checkpoints is, the table of all that are known, and which one a file has."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from mmseg_tome.checkpoints.checkpoint import Checkpoint, Source
from mmseg_tome.checkpoints.tensors import State
from mmseg_tome.errors import ConversionError, some

FORMATS: dict[str, "Format"] = {}
"""Each known format by its name."""

DROPPED = ""
"""In place of our name: a parameter of the format that has no use here."""


def register_format(cls: type["Format"]) -> type["Format"]:
    """Class decorator: let checkpoints of this format be recognised."""
    if cls.name in FORMATS:
        raise ValueError(f"format {cls.name!r} is taken by {type(FORMATS[cls.name]).__name__}")
    FORMATS[cls.name] = cls()
    return cls


class Format(ABC):
    """How a code base names and cuts the parameters of SegFormer.

    Attributes:
        name: Short, for tables.
        title: As messages name it.
    """

    name: str
    title: str

    @abstractmethod
    def our_key(self, key: str) -> str | None:
        """Our name of a parameter, `DROPPED` if it is not needed, None if it is none of theirs."""

    @abstractmethod
    def convert(self, source: Source) -> Checkpoint:
        """Convert a checkpoint all of whose keys have a name here.

        Raises:
            ConversionError: It is not whole, or cannot be expressed here.
        """

    def unexpected(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that are not of this format."""
        return [key for key in keys if self.our_key(key) is None]

    def rename(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Parameters by our names, and the names of those that were dropped."""
        names = {key: self.our_key(key) for key in state}
        kept = {ours: state[key] for key, ours in names.items() if ours}
        return kept, tuple(key for key, ours in names.items() if ours == DROPPED)


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
