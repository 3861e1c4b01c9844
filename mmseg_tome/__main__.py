"""`python -m mmseg_tome`: the same as `mmseg-tome`."""

import sys

from mmseg_tome.cli import main

if __name__ == "__main__":
    sys.exit(main())
