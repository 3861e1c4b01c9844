"""List our configs: each name stands for its config in every command, from any folder.

Examples:
  mmseg-tome configs
  mmseg-tome configs cityscapes
  mmseg-tome configs 'b0/*_fast_*'
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command
from mmseg_tome.config_names import matching_configs
from mmseg_tome.errors import UserError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    pattern = ("[PATTERN]", "part of a name, or a pattern with * and ? (default: all)")
    parser = options.Parser(__doc__, pattern)
    parser.set_defaults(pattern=None)
    return parser.read(argv, "pattern")


def list_configs(args: argparse.Namespace) -> None:
    """Print the names, one a line.

    Raises:
        UserError: None fits.
    """
    names = matching_configs(args.pattern or "")
    if not names:
        raise UserError(f"no config of ours fits {args.pattern!r}")
    print("\n".join(names))


main = command(parse_args, list_configs)
