"""Where this package's own files are."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

HOME = _PACKAGE.parent if (_PACKAGE.parent / "configs" / "_base_").is_dir() else _PACKAGE / ".mim"
"""The folder of `configs/` and `tools/`: a checkout's root, of an installed wheel `.mim`."""
CONFIGS, TOOLS = HOME / "configs", HOME / "tools"
