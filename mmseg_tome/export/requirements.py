"""Packages that exporting needs besides torch: named before they are missed."""

from importlib.util import find_spec

from mmseg_tome.errors import UserError


def require(*packages: str, what: str) -> None:
    """Check that packages are installed.

    Args:
        packages: Names, of import and of installation.
        what: Needs them.

    Raises:
        UserError: Some are not; the message says how to install them.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise UserError(f"{what} needs {', '.join(missing)}: pip install {names}")
