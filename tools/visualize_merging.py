"""The same as `mmseg-tome visualize`."""

import sys

from mmseg_tome.cli.visualize import main

if __name__ == "__main__":
    sys.exit(main())
