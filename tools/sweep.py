"""The same as `mmseg-tome sweep`."""

import sys

from mmseg_tome.cli.sweep import main

if __name__ == "__main__":
    sys.exit(main())
