"""Errors that a user can mend. Commands print their one line instead of a traceback."""


class UserError(Exception):
    """Something about the given config, files or machine is wrong; the message says what."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, is not safe to read, or does not fit the model."""


class DataError(UserError):
    """A data set that is not where the config says."""


class MMStackError(UserError, ImportError):
    """No mm stack, or two of them, in this environment."""


def first_line(error: object) -> str:
    """The first line of what an error says, its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
