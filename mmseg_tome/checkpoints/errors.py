"""What goes wrong with a checkpoint of another code base, in one line for its user."""

from collections.abc import Iterable

from mmseg_tome.errors import UserError

NAMED = 3
"""How many keys a message names."""


class ConversionError(UserError, ValueError):
    """A checkpoint that cannot be recognised, is not whole, or has no equal in the target."""


def some(items: Iterable[str]) -> str:
    """The first of `items`, and that there are more."""
    items = list(items)
    return ", ".join(items[:NAMED]) + (", ..." if len(items) > NAMED else "")
