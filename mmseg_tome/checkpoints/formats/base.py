"""What a format of checkpoints is, and the table of all that are known."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from mmseg_tome.checkpoints.checkpoint import Checkpoint, Source
from mmseg_tome.checkpoints.tensors import State

FORMATS: dict[str, "Format"] = {}
"""Each known format by its name."""

DROPPED = ""
"""In place of our name: a parameter of the format that nothing here needs."""


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
        title: For people.
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
