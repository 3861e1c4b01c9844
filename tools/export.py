"""The same as `mmseg-tome export`."""

import sys

from mmseg_tome.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
