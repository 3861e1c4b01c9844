"""The root of this package's errors. Commands print their one line instead of a traceback."""

from collections.abc import Iterable

NAMED = 3
"""Of many things, such as parameters, how many a message names."""


class UserError(Exception):
    """Something about the given config, files, options or machine is wrong; the message says what.

    Whatever this package raises on purpose is one, beside the built-in class that fits: an error of
    a `tome_cfg` is a ValueError, too, one of a backend a RuntimeError.
    """


class CheckpointError(UserError):
    """A checkpoint that cannot be read, is not safe to read, or does not fit the model."""


class ConversionError(UserError, ValueError):
    """A checkpoint that cannot be recognised, is not whole, or has no equal in the target."""


class DataError(UserError):
    """A data set that is not where the config says."""


class MMStackError(UserError, ImportError):
    """No mm stack, or two of them, in this environment."""


def some(items: Iterable[str]) -> str:
    """The first of `items`, and that there are more."""
    items = list(items)
    return ", ".join(items[:NAMED]) + (", ..." if len(items) > NAMED else "")


def first_line(error: object) -> str:
    """The first line of what an error says, its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
