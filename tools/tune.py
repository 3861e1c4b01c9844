"""The same as `mmseg-tome tune`."""

import sys

from mmseg_tome.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
