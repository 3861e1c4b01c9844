"""`compat` for programs: where there is no usable mm stack, they end in one line and exit code 2.

To be imported before anything of the mm packages.
"""

import sys

try:
    from mmseg_tome import compat
except ImportError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

__all__ = ["compat"]
